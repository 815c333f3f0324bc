"""Matching of detections with objects at one IoU threshold, as for AP, kept per image for the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from faster_coco_eval.core import mask as run_length
from numpy.typing import NDArray

from transformers_detr.evaluation.coco_types import CocoAnnotation, CocoDataset
from transformers_detr.evaluation.predictions import ImagePrediction

NOTHING = -1
"""Partner of a detection that found no object."""


@dataclass(frozen=True, eq=False)
class ImageMatches:
    """Detections and objects of one image; detections are sorted by score, the highest first.

    Attributes:
        image_id: The image.
        scores: `(N,)`.
        detected: `(N,)` category ids of the detections.
        detection_boxes: `(N, 4)` x, y, width, height in pixels.
        found: `(N,)` index of the object of the same class that a detection found, or −1.
        iou: `(N, M)` IoU of each detection and object; for a crowd, the part of the detection inside it.
        present: `(M,)` category ids of the objects.
        object_boxes: `(M, 4)` like `detection_boxes`.
        crowd: `(M,)` whether an object is a crowd: any number of detections may find it, none need.
    """

    image_id: int
    scores: NDArray[np.float64]
    detected: NDArray[np.int64]
    detection_boxes: NDArray[np.float64]
    found: NDArray[np.int64]
    iou: NDArray[np.float64]
    present: NDArray[np.int64]
    object_boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    @property
    def on_object(self) -> NDArray[np.bool_]:
        """`(N,)` bool: the detection found an object that is not a crowd (true positive)."""
        return (self.found >= 0) & ~self.on_crowd

    @property
    def on_crowd(self) -> NDArray[np.bool_]:
        """`(N,)` bool: the detection found a crowd, so it is ignored."""
        return (self.found >= 0) & np.append(self.crowd, False)[self.found]

    @property
    def false_alarm(self) -> NDArray[np.bool_]:
        """`(N,)` bool: the detection found no object of its class (false positive)."""
        return self.found == NOTHING

    def missed(self, threshold: float) -> NDArray[np.bool_]:
        """Return `(M,)` bool: not a crowd, and not found by a detection that scores at least `threshold`."""
        seen = np.zeros(len(self.present), dtype=bool)
        seen[self.found[(self.scores >= threshold) & (self.found >= 0)]] = True
        return ~seen & ~self.crowd


def match_images(
    ground_truth: CocoDataset, predictions: Iterable[ImagePrediction], iou_threshold: float = 0.5
) -> list[ImageMatches]:
    """Match the boxes of every image: each detection, by descending score, with the best unmatched object of its class.

    Returns:
        One entry per image of the ground truth, in its order.
    """
    objects: dict[int, list[CocoAnnotation]] = defaultdict(list)
    for annotation in ground_truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    found = {prediction.image_id: prediction for prediction in predictions}
    return [
        _match_image(found.get(image["id"], ImagePrediction(image["id"])), objects[image["id"]], iou_threshold)
        for image in ground_truth["images"]
    ]


def assign(
    iou: NDArray[np.float64], allowed: NDArray[np.bool_], crowd: NDArray[np.bool_], iou_threshold: float
) -> NDArray[np.int64]:
    """Give each detection, in order, the allowed object it overlaps most; objects, but not crowds, only once.

    Args:
        iou: `(N, M)`.
        allowed: `(N, M)` pairs that may be formed.
        crowd: `(M,)`.
        iou_threshold: Smallest IoU of a pair.

    Returns:
        `(N,)` index of the object, or −1.
    """
    possible = allowed & (iou >= min(iou_threshold, 1 - 1e-10))
    free = np.ones(iou.shape[1], dtype=bool)
    found = np.full(len(iou), NOTHING, dtype=np.int64)
    for row in np.flatnonzero(possible.any(axis=1)):
        candidates = np.flatnonzero(possible[row] & free & ~crowd)
        if not candidates.size:
            candidates = np.flatnonzero(possible[row] & crowd)
        if candidates.size:
            # of equal overlaps the last wins, as in COCO's scorer
            best = candidates[::-1][np.argmax(iou[row, candidates[::-1]])]
            found[row] = best
            free[best] = crowd[best]
    return found


def _match_image(prediction: ImagePrediction, objects: list[CocoAnnotation], iou_threshold: float) -> ImageMatches:
    order = np.argsort(-prediction.scores, kind="stable")
    detected = prediction.category_ids[order]
    detection_boxes = prediction.boxes_xywh[order]
    present = np.array([annotation["category_id"] for annotation in objects], dtype=np.int64)
    object_boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4)
    crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in objects], dtype=bool)
    iou = np.zeros((len(detected), len(present)))
    if iou.size:
        iou = np.asarray(run_length.iou(detection_boxes, object_boxes, crowd.astype(int).tolist()))
    return ImageMatches(
        image_id=prediction.image_id,
        scores=prediction.scores[order],
        detected=detected,
        detection_boxes=detection_boxes,
        found=assign(iou, detected[:, None] == present, crowd, iou_threshold),
        iou=iou,
        present=present,
        object_boxes=object_boxes,
        crowd=crowd,
    )
