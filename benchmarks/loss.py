"""Matching and loss of one training step, forward and backward, against stock transformers.

    python benchmarks/loss.py
    python benchmarks/loss.py --threads 2 --repeats 20 --output loss.json

Both sides run interleaved in one process on the same random predictions. Before the timing, losses and gradients are
compared; the exit status is 1 where they differ. Ours includes the checking of the labels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from report import machine, write_json
from torch import Tensor
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from transformers_detr.export.interleaved_timing import time_interleaved
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.loss_detr import loss_weights, match_predictions, set_loss
from transformers_detr.model.matcher_detr import MatchingCosts
from transformers_detr.model.targets_detr import read_targets

Batch = tuple[Tensor, Tensor, list[dict[str, Tensor]]]

WEIGHTS = loss_weights(DetrConfig())


def random_batch(images: int, layers: int, objects: int, queries: int, classes: int) -> Batch:
    """Return random logits `(L, B, Q, C + 1)`, boxes `(L, B, Q, 4)` and labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(layers, images, queries, classes + 1, generator=generator, requires_grad=True)
    boxes = torch.rand(layers, images, queries, 4, generator=generator) * 0.6 + 0.1
    labels = [
        {
            "class_labels": torch.randint(classes, (objects,), generator=generator),
            "boxes": torch.rand(objects, 4, generator=generator) * 0.4 + 0.2,
        }
        for _ in range(images)
    ]
    return logits, boxes.requires_grad_(), labels


def our_loss(logits: Tensor, boxes: Tensor, labels: list[dict[str, Tensor]]) -> Tensor:
    """Return the total loss of this package, including the check of the labels."""
    _, images, queries, columns = logits.shape
    targets = read_targets(labels, batch_size=images, num_queries=queries, num_classes=columns - 1)
    matched = match_predictions(logits, boxes, targets, MatchingCosts())
    return set_loss(matched, WEIGHTS, no_object=0.1)[0]


def stock_loss(
    config: transformers.DetrConfig, logits: Tensor, boxes: Tensor, labels: list[dict[str, Tensor]]
) -> Tensor:
    """Return the total loss of stock Transformers."""
    return ForObjectDetectionLoss(logits[-1], labels, "cpu", boxes[-1], config, logits, boxes)[0]


def step(
    loss: Callable[..., Tensor], logits: Tensor, boxes: Tensor, labels: list[dict[str, Tensor]]
) -> tuple[Tensor, ...]:
    """Return the loss and its gradients with respect to logits and boxes."""
    value = loss(logits, boxes, labels)
    return value.detach(), *torch.autograd.grad(value, (logits, boxes))


def main() -> int:
    """Compare, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"images": 8, "layers": 6, "objects": 20, "queries": 100, "classes": 91}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    batch = random_batch(arguments.images, arguments.layers, arguments.objects, arguments.queries, arguments.classes)
    config = transformers.DetrConfig(auxiliary_loss=True, decoder_layers=arguments.layers)
    config.num_labels = arguments.classes
    stock = partial(stock_loss, config)
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: step(our_loss, *batch), "stock": lambda: step(stock, *batch)}
    results = zip(*(run() for run in sides.values()), strict=True)
    difference = max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in results)

    seconds = time_interleaved(sides, arguments.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    report = {
        "images": arguments.images,
        "layers": arguments.layers,
        "objects_per_image": arguments.objects,
        "queries": arguments.queries,
        "classes": arguments.classes,
        **machine(arguments.threads),
        "largest_relative_difference": difference,
        "median_ms": {name: round(1e3 * value, 2) for name, value in median.items()},
        "fastest_ms": {name: round(1e3 * min(values), 2) for name, values in seconds.items()},
        "speedup": round(median["stock"] / median["ours"], 2),
    }
    print(f"{'':8}{'median ms':>12}{'fastest ms':>12}")
    for name in sides:
        print(f"{name:8}{report['median_ms'][name]:12.2f}{report['fastest_ms'][name]:12.2f}")
    print(f"speed-up {report['speedup']:.2f}, largest relative difference of loss and gradients {difference:.1e}")
    write_json(arguments.output, report)
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
