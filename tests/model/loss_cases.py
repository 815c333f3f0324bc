"""Predictions and labels for the tests of matching and loss: the golden cases, and random ones."""

import torch

from transformers_detr.model.targets_detr import read_targets

GOLDEN_CASES = [
    ("detr-tiny", "many_and_single"),
    ("detr-tiny", "none_and_many"),
    ("detr-tiny", "none"),
    ("detr-tiny", "ties"),
    ("detr-tiny", "more_targets_than_queries"),
    ("detr-r50", "many_and_single"),
    ("detr-r50", "none_and_many"),
    ("detr-r50", "none"),
    ("detr-r50", "ties"),
    ("detr-r50-panoptic", "masks"),
]


def stack_layers(outputs, batch="AB"):
    """All layers' logits `(L, B, Q, C + 1)` and boxes `(L, B, Q, 4)` of golden outputs, last layer last."""
    layers = 1 + sum(key.startswith(f"{batch}/aux_outputs.") for key in outputs) // 2
    names = [f"{batch}/aux_outputs.{layer}." for layer in range(layers - 1)] + [f"{batch}/"]
    return tuple(torch.stack([outputs[name + part] for name in names]) for part in ("pred_logits", "pred_boxes"))


def golden_labels(case):
    """The labels of a golden loss case."""
    return [
        {
            "class_labels": torch.tensor(target["labels"], dtype=torch.int64),
            "boxes": torch.tensor(target["boxes"], dtype=torch.float32).reshape(-1, 4),
        }
        for target in case["targets"]
    ]


def random_predictions(layers=3, images=2, queries=12, classes=7, seed=0):
    """Logits `(L, B, Q, C + 1)` and boxes `(L, B, Q, 4)`."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, images, queries, classes + 1, generator=generator)
    return logits, torch.randn(layers, images, queries, 4, generator=generator).sigmoid()


def random_labels(counts, classes=7, seed=0):
    """Labels with the given number of objects per image."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return [
        {
            "class_labels": torch.randint(classes, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.2,
        }
        for count in counts
    ]


def targets_for(logits, labels, **options):
    """The labels as checked targets; any number of objects is let through."""
    return read_targets(
        labels, batch_size=logits.shape[1], num_queries=1000, num_classes=logits.shape[-1] - 1, **options
    )
