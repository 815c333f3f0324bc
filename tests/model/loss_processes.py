"""The loss as one of several processes computes it; a module of its own, since new processes import it."""

import torch
from torch import distributed

from model.loss_cases import random_labels, random_predictions, targets_for
from transformers_detr import DetrConfig
from transformers_detr.model.loss_detr import loss_weights, match_predictions, set_loss
from transformers_detr.model.matcher_detr import MatchingCosts


def loss_and_gradients(counts, start, stop):
    """Loss of the images `start` to `stop` of a batch, and its gradients by logits and boxes."""
    logits, boxes = (
        tensor[:, start:stop].clone().requires_grad_() for tensor in random_predictions(images=len(counts))
    )
    targets = targets_for(logits, random_labels(counts)[start:stop])
    matched = match_predictions(logits, boxes, targets, MatchingCosts())
    loss, loss_dict = set_loss(matched, loss_weights(DetrConfig()), no_object=0.1)
    loss.backward()
    return {
        "loss": loss.detach(),
        "loss_dict": {name: value.detach() for name, value in loss_dict.items()},
        "logits": logits.grad,
        "boxes": boxes.grad,
    }


def run_process(rank, processes, folder, batches):
    """Store in the folder what this process computes of its share of each batch, given by counts of objects."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes)
    shares = []
    for counts in batches:
        share = len(counts) // processes
        shares.append(loss_and_gradients(counts, rank * share, (rank + 1) * share))
    torch.save(shares, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
