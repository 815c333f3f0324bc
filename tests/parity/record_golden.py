"""Record what the original computes with seeded weights: `python tests/parity/record_golden.py DIR`.

DIR is a copy of facebookresearch/detr. Nothing is downloaded. The numbers go to `golden_tiny.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import torchvision

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from seeded_weights import (  # noqa: E402
    CLASSES,
    FFN,
    HEADS,
    LAYERS,
    QUERIES,
    WIDTH,
    seeded_images,
    seeded_state_dict,
    seeded_targets,
)


def original_model() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Build the original's model and loss, with a ResNet-18 of random weights."""
    from models import backbone, detr, matcher, position_encoding, transformer

    build = torchvision.models.resnet18
    torchvision.models.resnet18 = lambda pretrained=False, **options: build(weights=None, **options)
    body = backbone.Backbone("resnet18", train_backbone=True, return_interm_layers=False, dilation=False)
    joined = backbone.Joiner(body, position_encoding.PositionEmbeddingSine(WIDTH // 2, normalize=True))
    joined.num_channels = body.num_channels
    layers = transformer.Transformer(
        d_model=WIDTH,
        dropout=0.0,
        nhead=HEADS,
        dim_feedforward=FFN,
        num_encoder_layers=LAYERS,
        num_decoder_layers=LAYERS,
        return_intermediate_dec=True,
    )
    model = detr.DETR(joined, layers, num_classes=CLASSES, num_queries=QUERIES, aux_loss=True)
    weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    weights |= {f"{name}_0": value for name, value in weights.items()}
    match = matcher.HungarianMatcher(cost_class=1, cost_bbox=5, cost_giou=2)
    loss = detr.SetCriterion(CLASSES, match, weights, eos_coef=0.1, losses=["labels", "boxes", "cardinality"])
    return model, loss


def record(folder: Path) -> dict[str, object]:
    """Return the numbers as JSON can hold them."""
    sys.path.insert(0, str(folder))
    model, loss = original_model()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(seeded_state_dict(shapes))
    images, targets = seeded_images(), seeded_targets()
    found: dict[str, object] = {"shapes": shapes}
    for name, batch in (("first", images[:1]), ("second", images[1:]), ("both", images)):
        model.eval()
        with torch.no_grad():
            outputs = model(list(batch))
        found[name] = {key: outputs[key].tolist() for key in ("pred_logits", "pred_boxes")}
    model.train()  # nothing is random: there is no dropout, and norms are frozen
    terms = loss(model(list(images)), targets)
    total = sum(terms[name] * weight for name, weight in loss.weight_dict.items())
    total.backward()
    gradients = {name: value.grad.norm().item() for name, value in model.named_parameters() if value.grad is not None}
    found["losses"] = {name: value.item() for name, value in terms.items() if name in loss.weight_dict}
    return {**found, "loss": total.item(), "gradient_norms": gradients}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    numbers = record(parser.parse_args().folder)
    (HERE / "golden_tiny.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")
