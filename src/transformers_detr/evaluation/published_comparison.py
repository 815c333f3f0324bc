"""Measured numbers beside the published ones of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from transformers_detr.evaluation.scoring import Evaluation
from transformers_detr.hub.class_names import NO_CLASS
from transformers_detr.hub.published_checkpoints import CHECKPOINTS

COCO_VAL2017_IMAGES = 5000


@dataclass(frozen=True)
class Row:
    """One metric from 0 to 100: measured here, published, and the difference."""

    metric: str
    here: float
    published: float
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Metrics of a checkpoint that are published and were measured here, with notes on the comparison."""

    checkpoint: str
    rows: list[Row]
    notes: list[str]


def compare_with_published(evaluation: Evaluation, model: str, padding: str) -> Comparison | None:
    """Compare with the published numbers; None if the model is not a published checkpoint.

    Args:
        evaluation: What was measured; its classes must be the checkpoint's, or it is another model of that name.
        model: Hub id or folder; the last part of it is looked up.
        padding: `"exact"` or `"original"`, which the notes speak of.
    """
    checkpoint = CHECKPOINTS.get(model.rstrip("/").rsplit("/", 1)[-1])
    names = {category["name"] for category in evaluation.ground_truth["categories"]}
    if checkpoint is None or names != set(checkpoint.id2label.values()) - {NO_CLASS}:
        return None
    boxes, masks, panoptic = evaluation.boxes.summary, evaluation.masks, evaluation.panoptic
    published = checkpoint.published
    candidates = [
        ("box AP", boxes["AP"], published.box_ap),
        ("box AP50", boxes["AP50"], published.box_ap50),
        ("box AP75", boxes["AP75"], published.box_ap75),
        ("box AP small", boxes["APs"], published.box_ap_small),
        ("box AP medium", boxes["APm"], published.box_ap_medium),
        ("box AP large", boxes["APl"], published.box_ap_large),
        ("mask AP", masks.summary["AP"] if masks else None, published.mask_ap),
        ("PQ", panoptic.all.pq if panoptic else None, published.panoptic_quality),
    ]
    rows = [
        Row(metric, here, value, here - value)
        for metric, here, value in candidates
        if here is not None and value is not None
    ]
    on_coco = not checkpoint.class_names
    data = "COCO val2017" if on_coco else f"the test images of {checkpoint.project.data}"
    notes = [f"The published numbers are those of {data}."]
    images = len(evaluation.ground_truth["images"])
    if on_coco and images != COCO_VAL2017_IMAGES:
        notes.append(
            f"The dataset has {images} images, not the {COCO_VAL2017_IMAGES} of COCO val2017: the numbers cannot be "
            "compared directly."
        )
    if checkpoint.dilation:
        how = {
            "exact": "With exact padding the batch size does not matter.",
            "original": "With the original's padding that holds at batch size 1; larger batches score lower.",
        }
        notes.append(
            "DC5 checkpoints were trained and measured with one image at a time, without padding. " + how[padding]
        )
    return Comparison(checkpoint.name, rows, notes)
