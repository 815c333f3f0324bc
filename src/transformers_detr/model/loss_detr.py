"""The set loss: each term on its own, then all of them, weighted, over all decoder layers.

Everything is computed in float32, whatever the model's dtype. Each term is a sum over the batch divided by
a mean over the processes, so that averaged gradients are those of one process with all the images. For boxes
and masks the original does the same; the classes it divides by the process's own sum of weights, so that an
image counts more on a process with few objects. In one process there is no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.nn import functional

from .boxes_detr import cxcywh_to_xyxy, elementwise_generalized_box_iou
from .matcher_detr import Matching, MatchingCosts, match
from .targets_detr import Targets


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts in the total, and "no object" among the classes."""

    ce: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    mask: float = 1.0
    dice: float = 1.0
    no_object: float = 0.1


def set_loss(
    logits: Tensor,
    pred_boxes: Tensor,
    targets: Targets,
    *,
    costs: MatchingCosts,
    weights: LossWeights,
    mask_logits: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total loss of a batch and its terms.

    Predictions that are not finite do not stop the matching, which reports them. They make the loss not
    finite, and so mark the step as one to skip, in every process, since gradients are averaged.

    Args:
        logits: `(L, B, Q, C + 1)` of all decoder layers, the last layer last; the last column is "no object".
        pred_boxes: `(L, B, Q, 4)`, cxcywh relative to the unpadded image.
        targets: the objects of the batch.
        costs: weights in the matching.
        weights: weights in the total.
        mask_logits: function of image and query indices, `(M,)` each, that gives the mask logits `(M, h, w)`
            of these queries of the last layer; also called when nothing is matched. Needs `targets.masks`.

    Returns:
        The total, a scalar, and the terms before weighting, scalars: `loss_ce`, `loss_bbox`, `loss_giou`,
        `cardinality_error`, `class_error` and, with masks, `loss_mask`, `loss_dice` of the last layer; then
        the first four with suffix `_0`, `_1`, … of the layers before. The total leaves the two errors out.

    Raises:
        ValueError: `mask_logits` is given and the targets have no masks.
    """
    if mask_logits is not None and targets.masks is None:
        raise ValueError("targets must have masks where mask_logits is given")
    logits, pred_boxes = logits.float(), pred_boxes.float()
    log_probabilities = logits.log_softmax(-1)
    matching = match(log_probabilities, pred_boxes, targets, costs)
    classes = wanted_classes(logits, targets, matching)
    num_boxes, class_weight = _normalizers(classes, targets, weights.no_object)

    loss_ce = classification_loss(log_probabilities, classes, weights.no_object) / class_weight
    loss_bbox, loss_giou = (term / num_boxes for term in box_losses(pred_boxes, targets, matching))
    total = (weights.ce * loss_ce + weights.bbox * loss_bbox + weights.giou * loss_giou).sum()
    terms = {"loss_ce": loss_ce, "loss_bbox": loss_bbox, "loss_giou": loss_giou}
    terms["cardinality_error"] = cardinality_error(logits, targets)

    last = {name: values[-1] for name, values in terms.items()}
    last["class_error"] = class_error(logits, targets, matching)
    if mask_logits is not None and targets.masks is not None:
        predicted = mask_logits(matching.image[-1], matching.query[-1])
        loss_mask, loss_dice = mask_losses(predicted, targets.masks[matching.target[-1]])
        last |= {"loss_mask": loss_mask / num_boxes, "loss_dice": loss_dice / num_boxes}
        total = total + weights.mask * last["loss_mask"] + weights.dice * last["loss_dice"]
    before = {f"{name}_{layer}": values[layer] for layer in range(len(logits) - 1) for name, values in terms.items()}
    return total, last | before


def wanted_classes(logits: Tensor, targets: Targets, matching: Matching) -> Tensor:
    """The class that each query should give `(L, B, Q)` int64: its object's, else "no object"."""
    classes = torch.full(logits.shape[:3], logits.shape[3] - 1, device=logits.device)
    layer = torch.arange(len(logits), device=logits.device)[:, None]
    classes[layer, matching.image, matching.query] = targets.class_labels[matching.target]
    return classes


def classification_loss(log_probabilities: Tensor, classes: Tensor, no_object: float) -> Tensor:
    """Weighted cross-entropy `(L,)`, summed over images and queries.

    Args:
        log_probabilities: `(L, B, Q, C + 1)`, the log-softmax of the logits.
        classes: `(L, B, Q)`, the wanted classes.
        no_object: weight of "no object"; the classes have weight 1.
    """
    weight = log_probabilities.new_ones(log_probabilities.shape[-1])
    weight[-1] = no_object
    loss = functional.nll_loss(log_probabilities.flatten(0, 2), classes.flatten(), weight, reduction="none")
    return loss.view(len(log_probabilities), -1).sum(1)


def box_losses(pred_boxes: Tensor, targets: Targets, matching: Matching) -> tuple[Tensor, Tensor]:
    """L1 distance and 1 - GIoU, `(L,)` each, summed over the matched pairs.

    Args:
        pred_boxes: `(L, B, Q, 4)`, cxcywh.
        targets: the objects of the batch.
        matching: the pairs.
    """
    layer = torch.arange(len(pred_boxes), device=pred_boxes.device)[:, None]
    predicted = pred_boxes[layer, matching.image, matching.query]  # (L, M, 4)
    wanted = targets.boxes_cxcywh[matching.target]
    distance = (predicted - wanted).abs().sum((1, 2))
    giou = elementwise_generalized_box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    return distance, (1 - giou).sum(1)


def mask_losses(mask_logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss, as a mean over pixels, and dice loss, each summed over the matched pairs.

    Padding counts as background, as in the original.
    Source: Lin et al., Focal Loss for Dense Object Detection, 2017; Milletari et al., V-Net, 2016.

    Args:
        mask_logits: `(M, h, w)`, brought to the size of the masks by bilinear interpolation.
        masks: `(M, H, W)` bool.
    """
    logits = functional.interpolate(mask_logits.float()[:, None], masks.shape[1:], mode="bilinear").flatten(1)
    inside = masks.flatten(1)
    margin = torch.where(inside, logits, -logits)
    alpha = torch.where(inside, 0.25, 0.75)
    focal = -alpha * torch.sigmoid(-margin).square() * functional.logsigmoid(margin)
    probability = logits.sigmoid()
    overlap = (probability * inside).sum(1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(1) + inside.sum(1) + 1)
    return focal.mean(1).sum(), dice.sum()


@torch.no_grad()
def cardinality_error(logits: Tensor, targets: Targets) -> Tensor:
    """How many more or fewer queries than objects see an object, `(L,)`, as a mean over images."""
    seen = (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)  # (L, B)
    counts = torch.tensor(targets.counts).to(logits.device, non_blocking=True)
    return (seen - counts).abs().float().mean(1)


@torch.no_grad()
def class_error(logits: Tensor, targets: Targets, matching: Matching) -> Tensor:
    """Per cent of the last layer's matched queries that give their object another class; 100 without any."""
    predicted = logits[-1, matching.image[-1], matching.query[-1]].argmax(-1)
    right = predicted == targets.class_labels[matching.target[-1]]
    return 100 - 100 * right.sum() / max(right.numel(), 1)


def _normalizers(classes: Tensor, targets: Targets, no_object: float) -> tuple[Tensor, Tensor]:
    """Number of objects, at least 1, and sum of class weights in a layer, as means over the processes."""
    matched = sum(min(count, classes.shape[2]) for count in targets.counts)
    sums = [sum(targets.counts), matched + no_object * (classes[0].numel() - matched)]
    means = torch.tensor(sums, dtype=torch.float32).to(classes.device, non_blocking=True)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(means)
        means = means / distributed.get_world_size()
    # The sum of weights is zero only when "no object" weighs nothing and there is no object.
    return means[0].clamp(min=1), means[1].clamp(min=torch.finfo(means.dtype).tiny)
