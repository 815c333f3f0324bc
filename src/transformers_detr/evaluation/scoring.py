"""Scoring of predictions: average precision of boxes and masks, operating points, panoptic quality."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from transformers_detr.evaluation.average_precision import AveragePrecision, score_detections
from transformers_detr.evaluation.coco_types import CocoDataset
from transformers_detr.evaluation.matching import ImageMatches, match_images
from transformers_detr.evaluation.operating_points import (
    OperatingPoint,
    best_operating_point,
    precision_recall,
    precision_recall_by_class,
)
from transformers_detr.evaluation.panoptic_quality import PanopticQuality
from transformers_detr.evaluation.predictions import ImagePrediction


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of scoring one image set.

    Attributes:
        ground_truth: Images, objects and classes that the predictions were compared with.
        unreadable: Id of each image that could not be predicted, with the reason. It counts as an image in which
            nothing was found.
        boxes: Average precision of the boxes.
        masks: Average precision of the masks; None without masks.
        panoptic: Panoptic quality; None without segments.
        matches: Which detection found which object at IoU 0.5, per image.
        best_overall: The score threshold with the best F1 over all classes together.
        best_per_class: The same for each category id.
    """

    ground_truth: CocoDataset
    unreadable: dict[int, str]
    boxes: AveragePrecision
    masks: AveragePrecision | None
    panoptic: PanopticQuality | None
    matches: list[ImageMatches]
    best_overall: OperatingPoint
    best_per_class: dict[int, OperatingPoint]

    def metrics(self) -> dict[str, Any]:
        """Return all numbers for JSON; undefined ones are None."""
        files = {image["id"]: image["file_name"] for image in self.ground_truth["images"]}
        return {
            "images": len(files),
            "objects": sum(category.objects for category in self.boxes.per_class),
            "unreadable_images": {files[i]: reason for i, reason in self.unreadable.items()},
            "box": _average_precision(self.boxes),
            "mask": None if self.masks is None else _average_precision(self.masks),
            "panoptic": None if self.panoptic is None else _defined(asdict(self.panoptic)),
            "best_threshold": _defined(asdict(self.best_overall)),
            "best_threshold_per_class": {
                category.name: _defined(asdict(self.best_per_class[category.category_id]))
                for category in self.boxes.per_class
            },
        }


def evaluate_predictions(
    ground_truth: CocoDataset,
    predictions: Iterable[ImagePrediction],
    max_detections: int = 100,
    panoptic: PanopticQuality | None = None,
) -> Evaluation:
    """Compare predictions with the ground truth.

    Args:
        ground_truth: Images, objects, categories.
        predictions: At most one per image. Masks are scored if all predictions with detections have them.
        max_detections: Number of detections per image and class that count for average precision, best first.
        panoptic: Panoptic quality of the same images, where it was measured.

    Raises:
        ValueError: The predictions do not fit the ground truth; see `score_detections`.
    """
    predictions = list(predictions)
    boxes = score_detections(ground_truth, predictions, "bbox", max_detections)
    found = [prediction for prediction in predictions if len(prediction.scores)]
    has_masks = bool(found) and all(prediction.masks is not None for prediction in found)
    matches = match_images(ground_truth, predictions)
    curves = precision_recall_by_class(matches, [category["id"] for category in ground_truth["categories"]])
    return Evaluation(
        ground_truth=ground_truth,
        unreadable={p.image_id: p.error for p in predictions if p.error is not None},
        boxes=boxes,
        masks=score_detections(ground_truth, predictions, "segm", max_detections) if has_masks else None,
        panoptic=panoptic,
        matches=matches,
        best_overall=best_operating_point(precision_recall(matches)),
        best_per_class={category_id: best_operating_point(curve) for category_id, curve in curves.items()},
    )


def _average_precision(scores: AveragePrecision) -> dict[str, Any]:
    return {
        **_defined(scores.summary),
        "max_detections": list(scores.max_detections),
        "per_class": {category.name: _defined(asdict(category)) for category in scores.per_class},
    }


def _defined(values: Any) -> Any:
    """Return a copy with None instead of NaN, which JSON does not have."""
    if isinstance(values, dict):
        return {key: _defined(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_defined(value) for value in values]
    return None if isinstance(values, float) and math.isnan(values) else values
