"""What a model found in one image, and the two files that hold it: JSON Lines and COCO results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_length
from numpy.typing import NDArray

from transformers_detr.model.coco_masks_detr import CocoRle


@dataclass(frozen=True)
class PanopticFile:
    """Predicted segments: a PNG of ids (R + 256 G + 65536 B), and `{"id", "category_id"}` of each segment."""

    file_name: str
    segments_info: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """Everything found in one image.

    Attributes:
        image_id: Id of the image in the ground truth.
        scores: `(N,)` in [0, 1].
        category_ids: `(N,)` category ids of the ground truth.
        boxes_xywh: `(N, 4)` upper left corner, width, height, in pixels of the image.
        masks: N run-length codes, or None when the model makes no masks.
        panoptic: The segments, or None when the model makes none.
        error: Why nothing could be predicted; None when all is well.
    """

    image_id: int
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    category_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes_xywh: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    masks: list[CocoRle] | None = None
    panoptic: PanopticFile | None = None
    error: str | None = None


def to_json(prediction: ImagePrediction) -> dict[str, Any]:
    """A prediction as one line of JSON Lines holds it."""
    entry: dict[str, Any] = {"image_id": prediction.image_id}
    if prediction.error is not None:
        return entry | {"error": prediction.error}
    entry |= {
        "scores": prediction.scores.tolist(),
        "category_ids": prediction.category_ids.tolist(),
        "boxes_xywh": prediction.boxes_xywh.tolist(),
    }
    if prediction.masks is not None:
        entry["masks"] = prediction.masks
    if prediction.panoptic is not None:
        entry["panoptic"] = vars(prediction.panoptic)
    return entry


def from_json(entry: dict[str, Any]) -> ImagePrediction:
    """The inverse of `to_json`.

    Raises:
        ValueError: A field is missing, the counts differ, or a number is not finite.
    """
    if "image_id" not in entry:
        raise ValueError("a prediction without image_id")
    image_id = entry["image_id"]
    if "error" in entry:
        return ImagePrediction(image_id, error=entry["error"])
    missing = {"scores", "category_ids", "boxes_xywh"} - entry.keys()
    if missing:
        raise ValueError(f"prediction for image {image_id}: {', '.join(sorted(missing))} missing")
    return _checked(
        ImagePrediction(
            image_id,
            np.asarray(entry["scores"], dtype=np.float64),
            np.asarray(entry["category_ids"], dtype=np.int64),
            np.asarray(entry["boxes_xywh"], dtype=np.float64).reshape(-1, 4),
            entry.get("masks"),
            PanopticFile(**entry["panoptic"]) if "panoptic" in entry else None,
        )
    )


def _checked(prediction: ImagePrediction) -> ImagePrediction:
    counts = {len(prediction.scores), len(prediction.category_ids), len(prediction.boxes_xywh)}
    if prediction.masks is not None:
        counts.add(len(prediction.masks))
    if len(counts) > 1:
        raise ValueError(f"prediction for image {prediction.image_id}: unequal numbers of scores, boxes … {counts}")
    if not (np.isfinite(prediction.scores).all() and np.isfinite(prediction.boxes_xywh).all()):
        raise ValueError(f"prediction for image {prediction.image_id}: a score or box is not finite")
    return prediction


def read_predictions(path: Path) -> Iterator[ImagePrediction]:
    """Read a predictions file of either kind: JSON Lines (`.jsonl`), or COCO results (a JSON array).

    Raises:
        ValueError: The file is neither; the message names the line or entry.
    """
    if path.suffix == ".jsonl":
        return _read_json_lines(path)
    return iter(_read_coco_results(path))


def _read_json_lines(path: Path) -> Iterator[ImagePrediction]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                if "settings" not in entry:
                    yield from_json(entry)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def _read_coco_results(path: Path) -> list[ImagePrediction]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: COCO results are a JSON array, got {type(entries).__name__}")
    return from_coco_results(entries)


def from_coco_results(entries: Iterable[dict[str, Any]]) -> list[ImagePrediction]:
    """Group COCO results, one entry per detection, by image; their order within an image stays.

    A detection without a box gets that of its mask.

    Raises:
        ValueError: An entry lacks `image_id`, `category_id` or `score`, or has neither `bbox` nor `segmentation`.
    """
    by_image: dict[int, list[dict[str, Any]]] = {}
    for number, entry in enumerate(entries):
        absent = {"image_id", "category_id", "score"} - entry.keys()
        if absent or not entry.keys() & {"bbox", "segmentation"}:
            raise ValueError(f"entry {number}: {', '.join(sorted(absent)) or 'bbox or segmentation'} missing")
        by_image.setdefault(entry["image_id"], []).append(entry)
    return [_gather(image_id, found) for image_id, found in by_image.items()]


def _gather(image_id: int, found: list[dict[str, Any]]) -> ImagePrediction:
    masks = [entry["segmentation"] for entry in found if "segmentation" in entry]
    return _checked(
        ImagePrediction(
            image_id,
            np.array([entry["score"] for entry in found], dtype=np.float64),
            np.array([entry["category_id"] for entry in found], dtype=np.int64),
            np.array([_box(entry) for entry in found], dtype=np.float64).reshape(-1, 4),
            masks or None,
        )
    )


def _box(entry: dict[str, Any]) -> Any:
    return entry["bbox"] if "bbox" in entry else run_length.toBbox(entry["segmentation"])


def to_coco_results(predictions: Iterable[ImagePrediction]) -> Iterator[dict[str, Any]]:
    """One entry per detection, as COCO's evaluation server takes them."""
    for prediction in predictions:
        masks: Sequence[CocoRle | None] = prediction.masks or [None] * len(prediction.scores)
        columns = zip(prediction.category_ids, prediction.scores, prediction.boxes_xywh, masks, strict=True)
        for category_id, score, box, mask in columns:
            entry = {
                "image_id": prediction.image_id,
                "category_id": int(category_id),
                "score": float(score),
                "bbox": box.tolist(),
            }
            yield entry if mask is None else entry | {"segmentation": mask}
