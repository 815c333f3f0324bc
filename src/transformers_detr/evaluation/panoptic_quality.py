"""Panoptic quality: agreement of the predicted segments of an image with the true segments.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019; counting rules as in COCO's own scorer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transformers_detr.evaluation.coco_types import CocoCategory

VOID = 0
"""Id of the pixels that belong to no segment."""


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """The segments of one image.

    Attributes:
        image_id: The image.
        ids: `(H, W)` integers, the segment of each pixel; 0 where there is none.
        category_of: Segment id → category id.
        crowds: Ids of the segments that stand for a crowd; only in ground truth.
    """

    image_id: int
    ids: NDArray[np.integer]
    category_of: Mapping[int, int]
    crowds: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PanopticScore:
    """Panoptic quality and its two factors from 0 to 100, averaged over `classes` classes; NaN if there are none."""

    pq: float
    sq: float
    rq: float
    classes: int


@dataclass(frozen=True)
class ClassPanopticScore:
    """Scores of one class from 0 to 100 (NaN if it neither occurs nor is predicted) and the counts behind them."""

    category_id: int
    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    true_positives: int
    false_positives: int
    false_negatives: int


@dataclass(frozen=True)
class PanopticQuality:
    """Averages over all classes, over things and over stuff, and the scores of each class."""

    all: PanopticScore
    things: PanopticScore
    stuff: PanopticScore
    per_class: list[ClassPanopticScore]


def count_segments(
    truth: PanopticMap, prediction: PanopticMap | None, categories: Sequence[CocoCategory]
) -> NDArray[np.float64]:
    """Count matched, wrong and missed segments of one image; the counts of several images add up.

    A predicted and a true segment match when they are of one class and their IoU is above 0.5. True void pixels
    under a segment count neither for nor against it, and an unmatched segment that lies mostly on void or on a
    crowd of its class is no mistake.

    Args:
        truth: The true segments.
        prediction: The predicted segments; None counts every true segment as missed.
        categories: The classes; K of them.

    Returns:
        `(K, 4)`: per class the sum of the IoUs of matched pairs, matched pairs, wrong segments, missed segments.

    Raises:
        ValueError: The maps belong to different images or differ in size, a category is unknown, or a segment
            of the prediction is not in its map or not listed.
    """
    row_of = {category["id"]: row for row, category in enumerate(categories)}
    true_ids, true_rows = _listed(truth, row_of)
    no_crowd = np.array([i not in truth.crowds for i in true_ids], dtype=bool)
    if prediction is None:
        return _tally(len(row_of), missed=true_rows[no_crowd])

    predicted_ids, predicted_rows = _listed(prediction, row_of)
    overlap = _overlap(truth, true_ids, prediction, predicted_ids)  # (1 + T + 1, 1 + P): void first, unlisted last
    predicted_area = overlap.sum(axis=0)[1:]
    if not predicted_area.all():
        segment = predicted_ids[int(np.argmin(predicted_area))]
        raise ValueError(f"prediction for image {prediction.image_id}: segment {segment} has no pixel in its map")
    on_void = overlap[0, 1:]
    shared = overlap[1:-1, 1:]  # (T, P)
    union = overlap.sum(axis=1)[1:-1, None] + predicted_area - shared - on_void
    iou = shared / np.maximum(union, 1)
    matched = (iou > 0.5) & (true_rows[:, None] == predicted_rows) & no_crowd[:, None]

    excused = on_void + _on_crowd(shared, true_rows, predicted_rows, ~no_crowd)
    wrong = ~matched.any(axis=0) & (excused / predicted_area <= 0.5)
    missed = ~matched.any(axis=1) & no_crowd
    pairs = np.nonzero(matched)
    return _tally(len(row_of), true_rows[missed], predicted_rows[wrong], matched=true_rows[pairs[0]], ious=iou[pairs])


def panoptic_quality(counts: NDArray[np.float64], categories: Sequence[CocoCategory]) -> PanopticQuality:
    """Return panoptic quality from the summed counts of all images.

    Args:
        counts: `(K, 4)`, the sum of `count_segments` over the images.
        categories: The K classes in the same order.
    """
    ious, matched, wrong, missed = counts.T
    weight = matched + wrong / 2 + missed / 2
    seen = weight > 0
    with np.errstate(invalid="ignore"):
        pq, rq = 100 * ious / weight, 100 * matched / weight
        sq = np.where(seen, 100 * ious / np.maximum(matched, 1), np.nan)
    isthing = np.array([bool(category.get("isthing", 1)) for category in categories], dtype=bool)

    def average(chosen: NDArray[np.bool_]) -> PanopticScore:
        means = [float(v[chosen].mean()) if chosen.any() else float("nan") for v in (pq, sq, rq)]
        return PanopticScore(means[0], means[1], means[2], int(chosen.sum()))

    return PanopticQuality(
        all=average(seen),
        things=average(seen & isthing),
        stuff=average(seen & ~isthing),
        per_class=[
            ClassPanopticScore(
                category["id"],
                category["name"],
                bool(isthing[k]),
                float(pq[k]),
                float(sq[k]),
                float(rq[k]),
                int(matched[k]),
                int(wrong[k]),
                int(missed[k]),
            )
            for k, category in enumerate(categories)
        ],
    )


def _listed(segments: PanopticMap, row_of: Mapping[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of the listed segments in ascending order, and the row of each segment's class."""
    ids = sorted(segments.category_of)
    for i in ids:
        if segments.category_of[i] not in row_of:
            raise ValueError(
                f"image {segments.image_id}: segment {i} has the unknown category {segments.category_of[i]}"
            )
    rows = [row_of[segments.category_of[i]] for i in ids]
    return np.array(ids, dtype=np.int64), np.array(rows, dtype=np.int64)


def _overlap(
    truth: PanopticMap,
    true_ids: NDArray[np.int64],
    prediction: PanopticMap,
    predicted_ids: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the shared pixels of each pair `(1 + T + 1, 1 + P)`: first void, last true pixels of unlisted segments."""
    if truth.image_id != prediction.image_id or truth.ids.shape != prediction.ids.shape:
        raise ValueError(
            f"prediction for image {prediction.image_id} of size {prediction.ids.shape} does not fit "
            f"the ground truth of image {truth.image_id} of size {truth.ids.shape}"
        )
    true_index = _positions(truth.ids, true_ids)
    predicted_index = _positions(prediction.ids, predicted_ids)
    width = 1 + len(predicted_ids)
    if (predicted_index == width).any():
        segment = int(prediction.ids.reshape(-1)[int(np.argmax(predicted_index))])
        raise ValueError(f"prediction for image {prediction.image_id}: segment {segment} of the map is not listed")
    height = len(true_ids) + 2
    flat = np.bincount(true_index * width + predicted_index, minlength=height * width)
    return flat.reshape(height, width)


def _positions(ids: NDArray[np.integer], listed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each pixel 0 (void), 1 + the position of its segment in `listed`, or 1 + its length if unlisted."""
    flat = ids.reshape(-1)
    position = np.searchsorted(listed, flat)
    found = np.append(listed, -1)[position] == flat
    position = np.where(found, position + 1, len(listed) + 1)
    return np.where(flat == VOID, 0, position)


def _on_crowd(
    shared: NDArray[np.int64],
    true_rows: NDArray[np.int64],
    predicted_rows: NDArray[np.int64],
    crowd: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return the pixels `(P,)` that each predicted segment shares with a crowd of its class.

    Of two crowds of one class in an image only the last counts, as in COCO's scorer.
    """
    last_crowd = {int(true_rows[t]): t for t in np.flatnonzero(crowd)}
    return np.array(
        [shared[last_crowd[row], p] if row in last_crowd else 0 for p, row in enumerate(predicted_rows.tolist())],
        dtype=np.int64,
    )


def _tally(
    classes: int,
    missed: NDArray[np.int64],
    wrong: NDArray[np.int64] | None = None,
    matched: NDArray[np.int64] | None = None,
    ious: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    none = np.zeros(0, dtype=np.int64)
    matched = none if matched is None else matched
    wrong = none if wrong is None else wrong
    columns = [
        np.bincount(matched, weights=ious if ious is not None else none, minlength=classes),
        np.bincount(matched, minlength=classes),
        np.bincount(wrong, minlength=classes),
        np.bincount(missed, minlength=classes),
    ]
    return np.stack(columns, axis=1).astype(np.float64)
