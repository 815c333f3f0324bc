"""Average precision of boxes and masks as COCO defines it, behind one function.

faster-coco-eval does the counting; pycocotools, which it must equal, is the oracle of the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as run_length
from numpy.typing import NDArray

from transformers_detr.evaluation.coco_types import CocoAnnotation, CocoDataset
from transformers_detr.evaluation.predictions import ImagePrediction

Kind = Literal["bbox", "segm"]

AREAS = ("all", "small", "medium", "large")
"""COCO's object sizes: small is below 32² pixels, large above 96²."""


MEANINGS = (
    "average precision: mean over the IoU thresholds 0.50, 0.55 … 0.95 and over the classes",
    "at IoU 0.50",
    "at IoU 0.75",
    "of small objects, under 32² pixels",
    "of medium objects",
    "of large objects, over 96² pixels",
    "average recall with one detection per image and class",
    "with 10 detections",
    "with all detections that count",
    "of small objects",
    "of medium objects",
    "of large objects",
)
"""Descriptions of COCO's twelve numbers, in their order."""


@dataclass(frozen=True)
class ClassPrecision:
    """One class: its scores from 0 to 100, NaN where it has no object of that size.

    Attributes:
        objects: Objects of the class that are not crowds.
        ap: AP averaged over the IoU thresholds 0.50, 0.55 … 0.95; `ap50` and `ap75` at one of them.
        ap_small: AP of small objects; `ap_medium` and `ap_large`: AP of medium and large ones.
        recall: Recall averaged over the IoU thresholds.
    """

    category_id: int
    name: str
    objects: int
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall: float


@dataclass(frozen=True)
class AveragePrecision:
    """The result of scoring one image set.

    Attributes:
        kind: `"bbox"` or `"segm"`: whether boxes or masks were compared.
        max_detections: Three counts; at most the last of them enter per image and class.
        summary: COCO's twelve numbers by name (`AP`, `AP50`, … `ARl`), in COCO's order, from 0 to 100; NaN where
            undefined.
        per_class: One entry per category, by id.
        iou_thresholds: `(T,)`.
        precision: `(T, R, K)` interpolated precision at the recalls 0, 0.01 … 1 for K categories, objects of
            every size; NaN for a category without objects.
    """

    kind: Kind
    max_detections: tuple[int, int, int]
    summary: dict[str, float]
    per_class: list[ClassPrecision]
    iou_thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]


def score_detections(
    ground_truth: CocoDataset,
    predictions: Iterable[ImagePrediction],
    kind: Kind = "bbox",
    max_detections: int = 100,
) -> AveragePrecision:
    """Score detections against the ground truth.

    Images without a prediction count as images in which nothing was found.

    Args:
        ground_truth: Images, objects, categories.
        predictions: At most one per image, in any order of images.
        kind: `"bbox"` compares boxes, `"segm"` masks.
        max_detections: Number of detections per image and class that count, highest scores first; COCO uses 100.

    Raises:
        ValueError: A prediction is for an unknown or repeated image, or lacks masks when masks are compared; no
            detection has a category of the ground truth; or `max_detections` is not above 10.
    """
    if max_detections <= 10:
        raise ValueError(f"max_detections must be above 10, COCO's second count, got {max_detections}")
    counts = (1, 10, max_detections)
    truth = _index(ground_truth, [_object(i, note) for i, note in enumerate(ground_truth["annotations"], 1)])
    found = _index(ground_truth, list(_detections(ground_truth, predictions, kind)))
    evaluator = COCOeval_faster(truth, found, iouType=kind)
    evaluator.params.maxDets = list(counts)
    evaluator.evaluate()
    evaluator.accumulate()
    # (T, R, K, areas, counts) and (T, K, areas, counts); the library marks "undefined" by −1
    precision = np.where(evaluator.eval["precision"] < 0, np.nan, evaluator.eval["precision"])
    recall = np.where(evaluator.eval["recall"] < 0, np.nan, evaluator.eval["recall"])
    thresholds = np.asarray(evaluator.params.iouThrs)
    return AveragePrecision(
        kind=kind,
        max_detections=counts,
        summary=_summary(precision, recall, thresholds, counts),
        per_class=_per_class(ground_truth, precision, recall, thresholds),
        iou_thresholds=thresholds,
        precision=precision[:, :, :, 0, -1],
    )


def _object(number: int, annotation: CocoAnnotation) -> dict[str, Any]:
    """Return an annotation in the format of the library.

    Ids are renumbered from 1: pycocotools takes the id 0 for "not matched".
    """
    _, _, width, height = annotation["bbox"]
    return {"area": width * height, "iscrowd": 0, **annotation, "id": number}


def _detections(
    ground_truth: CocoDataset, predictions: Iterable[ImagePrediction], kind: Kind
) -> Iterator[dict[str, Any]]:
    """Yield each detection in the format of the library."""
    unseen = {image["id"] for image in ground_truth["images"]}
    known = {category["id"] for category in ground_truth["categories"]}
    number, foreign = 0, set()
    for prediction in predictions:
        if prediction.image_id not in unseen:
            raise ValueError(f"prediction for image {prediction.image_id}: not in the ground truth, or predicted twice")
        unseen.remove(prediction.image_id)
        shapes = _shapes(prediction, kind)
        columns = zip(prediction.category_ids.tolist(), prediction.scores.tolist(), shapes, strict=True)
        for category_id, score, shape in columns:
            if category_id not in known:
                foreign.add(category_id)
                continue
            number += 1
            yield {
                "id": number,
                "image_id": prediction.image_id,
                "category_id": category_id,
                "score": score,
                "iscrowd": 0,
                **shape,
            }
    if foreign and not number:
        raise ValueError(
            f"predictions: no detection has a category of the ground truth; "
            f"they have {sorted(foreign)[:10]}, the ground truth {sorted(known)[:10]}"
        )


def _shapes(prediction: ImagePrediction, kind: Kind) -> Iterator[dict[str, Any]]:
    """Yield the outline and area of each detection; for masks, the area of the mask."""
    if kind == "bbox":
        areas = prediction.boxes_xywh[:, 2] * prediction.boxes_xywh[:, 3]
        for box, area in zip(prediction.boxes_xywh.tolist(), areas.tolist(), strict=True):
            yield {"bbox": box, "area": area}
        return
    if prediction.masks is None and len(prediction.scores):
        raise ValueError(f"prediction for image {prediction.image_id}: has no masks, and kind is 'segm'")
    for mask in prediction.masks or []:
        yield {"segmentation": mask, "area": float(run_length.area(mask))}


def _index(ground_truth: CocoDataset, annotations: list[dict[str, Any]]) -> COCO:
    return COCO({**ground_truth, "annotations": annotations})


def _score(values: NDArray[np.float64]) -> float:
    """Return the mean of the defined values on COCO's scale, 0 to 100; NaN if none is defined."""
    defined = values[~np.isnan(values)]
    return 100 * float(defined.mean()) if defined.size else float("nan")


def _summary(
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    counts: tuple[int, int, int],
) -> dict[str, float]:
    """Return COCO's twelve numbers from precision `(T, R, K, areas, counts)` and recall `(T, K, areas, counts)`."""
    at_50, at_75 = np.isclose(thresholds, 0.5), np.isclose(thresholds, 0.75)
    summary = {
        "AP": _score(precision[:, :, :, 0, -1]),
        "AP50": _score(precision[at_50, :, :, 0, -1]),
        "AP75": _score(precision[at_75, :, :, 0, -1]),
    }
    summary |= {f"AP{name[0]}": _score(precision[:, :, :, area, -1]) for area, name in enumerate(AREAS) if area}
    summary |= {f"AR{count}": _score(recall[:, :, 0, position]) for position, count in enumerate(counts)}
    summary |= {f"AR{name[0]}": _score(recall[:, :, area, -1]) for area, name in enumerate(AREAS) if area}
    return summary


def _per_class(
    ground_truth: CocoDataset,
    precision: NDArray[np.float64],
    recall: NDArray[np.float64],
    thresholds: NDArray[np.float64],
) -> list[ClassPrecision]:
    """Return the scores of each category, ordered by id as in the library."""
    at_50, at_75 = np.isclose(thresholds, 0.5), np.isclose(thresholds, 0.75)
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    objects = Counter(a["category_id"] for a in ground_truth["annotations"] if not a.get("iscrowd", 0))
    return [
        ClassPrecision(
            category_id=category_id,
            name=names[category_id],
            objects=objects[category_id],
            ap=_score(precision[:, :, k, 0, -1]),
            ap50=_score(precision[at_50, :, k, 0, -1]),
            ap75=_score(precision[at_75, :, k, 0, -1]),
            ap_small=_score(precision[:, :, k, 1, -1]),
            ap_medium=_score(precision[:, :, k, 2, -1]),
            ap_large=_score(precision[:, :, k, 3, -1]),
            recall=_score(recall[:, k, 0, -1]),
        )
        for k, category_id in enumerate(sorted(names))
    ]
