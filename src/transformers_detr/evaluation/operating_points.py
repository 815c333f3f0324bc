"""Operating points, confusions, scores and worst images of a detector, from its matches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformers_detr.evaluation.matching import NOTHING, ImageMatches, assign


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall of the detections that score at least `thresholds[i]`.

    Attributes:
        thresholds: `(P,)` falling; every score that occurs.
        precision: `(P,)`.
        recall: `(P,)` rising; NaN without objects.
        f1: `(P,)` their harmonic mean; 0 when both are 0.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """Score threshold with the largest F1, and its metrics; NaN without detections or without objects."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ImageErrors:
    """Mistakes in one image at a threshold: indices of missed objects and of false alarms."""

    matches: ImageMatches
    missed: list[int]
    false_alarms: list[int]

    @property
    def count(self) -> int:
        """Number of missed objects and false alarms."""
        return len(self.missed) + len(self.false_alarms)


def precision_recall(matches: Sequence[ImageMatches]) -> Curve:
    """Return precision and recall at every score threshold, all classes together.

    Detections on a crowd of their class are left out.
    """
    scores, right, _, present = _flat(matches)
    return _curve(scores, right, len(present))


def precision_recall_by_class(matches: Sequence[ImageMatches], category_ids: Iterable[int]) -> dict[int, Curve]:
    """Return precision and recall at every score threshold for each class."""
    scores, right, detected, present = _flat(matches)
    curves = {}
    for category_id in category_ids:
        own = detected == category_id
        curves[category_id] = _curve(scores[own], right[own], int((present == category_id).sum()))
    return curves


def best_operating_point(curve: Curve) -> OperatingPoint:
    """Return the point with the largest F1; of equal ones, the one with the highest threshold."""
    if not len(curve.f1) or np.isnan(curve.recall).any():
        return OperatingPoint(*[float("nan")] * 4)
    best = int(np.argmax(curve.f1))
    values = (curve.thresholds, curve.precision, curve.recall, curve.f1)
    return OperatingPoint(*[float(value[best]) for value in values])


def confusion_matrix(
    matches: Sequence[ImageMatches], category_ids: Sequence[int], threshold: float, iou_threshold: float = 0.5
) -> NDArray[np.int64]:
    """Count the predicted class of each object, among detections that score at least `threshold`.

    Detections that found an object of their class come first; the others may then take any object left over.

    Returns:
        `(K + 1, K + 1)`: rows are the K true categories, columns the detected ones; the last row holds
        detections on nothing, the last column missed objects. Crowds and detections on them are left out.
    """
    row_of = {category_id: row for row, category_id in enumerate(category_ids)}
    background = len(row_of)
    counts = np.zeros((background + 1, background + 1), dtype=np.int64)
    for image in matches:
        kept = (image.scores >= threshold) & ~image.on_crowd
        kept &= np.isin(image.detected, category_ids)
        found = np.where(kept, image.found, NOTHING)
        left = image.missed(threshold)
        wrong = kept & (found == NOTHING)
        confused = assign(image.iou, wrong[:, None] & left, np.zeros_like(image.crowd), iou_threshold)
        found = np.where(wrong, confused, found)
        for detection in np.flatnonzero(kept):
            column = row_of[int(image.detected[detection])]
            partner = found[detection]
            counts[background if partner == NOTHING else row_of[int(image.present[partner])], column] += 1
        left[confused[confused >= 0]] = False
        for category_id in image.present[left].tolist():
            counts[row_of[category_id], background] += 1
    return counts


def score_histogram(matches: Sequence[ImageMatches], bins: int = 20) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count detections by score, in `bins` equal steps from 0 to 1.

    Returns:
        Two `(bins,)` counts: detections that found an object, and false alarms.
    """
    edges = np.linspace(0, 1, bins + 1)
    right = _joined([image.scores[image.on_object] for image in matches])
    wrong = _joined([image.scores[image.false_alarm] for image in matches])
    return np.histogram(right, edges)[0], np.histogram(wrong, edges)[0]


def worst_images(matches: Sequence[ImageMatches], threshold: float, count: int) -> list[ImageErrors]:
    """Return the images with the most errors, worst first; images without errors are left out."""
    errors = []
    for image in matches:
        alarms = np.flatnonzero(image.false_alarm & (image.scores >= threshold)).tolist()
        errors.append(ImageErrors(image, np.flatnonzero(image.missed(threshold)).tolist(), alarms))
    errors.sort(key=lambda image: -image.count)
    return [image for image in errors[:count] if image.count]


def _flat(matches: Sequence[ImageMatches]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return score, correctness and class of each detection not on a crowd, and the class of each object, no crowds."""
    kept = [~image.on_crowd for image in matches]
    pairs = list(zip(matches, kept, strict=True))
    scores = _joined([image.scores[k] for image, k in pairs])
    right = _joined([image.on_object[k] for image, k in pairs])
    detected = _joined([image.detected[k] for image, k in pairs])
    return scores, right, detected, _joined([image.present[~image.crowd] for image in matches])


def _curve(scores: NDArray[Any], right: NDArray[Any], objects: int) -> Curve:
    """Return the curve of N detections, given their scores, their correctness and the number of objects."""
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of equal scores, all or none are kept
    true_positives = np.cumsum(right[order])[last]
    with np.errstate(invalid="ignore"):
        recall = true_positives / np.float64(objects)
    f1 = 2 * true_positives / (last + 1 + objects)
    return Curve(scores[last], true_positives / (last + 1), recall, f1)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Concatenate arrays; no arrays give an empty one."""
    return np.concatenate([np.zeros(0), *parts])
