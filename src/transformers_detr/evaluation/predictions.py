"""Predictions of one image as arrays for scoring, and their conversion from and to files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
from faster_coco_eval.core import mask as run_length
from numpy.typing import NDArray

from transformers_detr.inference.predictions import Record, boxes_of, detection_entries, read_records
from transformers_detr.inference.sources import URL_PREFIXES
from transformers_detr.model.coco_masks_detr import CocoRle
from transformers_detr.model.image_io_detr import Pixels


class EvaluationImage(Protocol):
    """One image to predict: its id and size in the ground truth, and how to get its pixels."""

    @property
    def id(self) -> int:
        """Id in the ground truth."""

    @property
    def height(self) -> int:
        """Height in pixels, which the ground truth's boxes refer to."""

    @property
    def width(self) -> int:
        """Width in pixels."""

    @property
    def path(self) -> Path:
        """The image file, or a name."""

    def load_pixels(self, num_channels: int) -> Pixels:
        """The upright image with the channels of a model; OSError or ValueError if it cannot be read."""


@dataclass(frozen=True)
class PanopticFile:
    """Predicted segments: a PNG of ids (R + 256 G + 65536 B), and `{"id", "category_id"}` of each segment."""

    file_name: str
    segments_info: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """Predictions for one image.

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


def to_record(prediction: ImagePrediction, image: EvaluationImage, class_names: Mapping[int, str]) -> Record:
    """Return the record of a prediction; see `transformers_detr.inference.predictions`.

    Args:
        prediction: What was found in the image.
        image: The image.
        class_names: Class names by class id.
    """
    record: Record = {"id": prediction.image_id, "uri": str(image.path)}
    if prediction.error is not None:
        return record | {"error": prediction.error}
    class_ids, corners = prediction.category_ids.tolist(), prediction.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    labels = [class_names.get(number, str(number)) for number in class_ids]
    entries = detection_entries(labels, class_ids, prediction.scores.tolist(), corners.tolist(), prediction.masks)
    record |= {"height": image.height, "width": image.width, "detections": entries}
    if prediction.panoptic is not None:
        record |= {"segmentation": prediction.panoptic.file_name, "segments": prediction.panoptic.segments_info}
    return record


def from_record(record: Record) -> ImagePrediction:
    """Return the prediction of a record.

    Raises:
        ValueError: An entry is missing or has the wrong type, or a number is not finite.
    """
    image_id = record["id"]
    if "error" in record:
        return ImagePrediction(image_id, error=record["error"])
    entries = record.get("detections", ())
    try:
        boxes = boxes_of(entries)
        boxes[:, 2:] -= boxes[:, :2]
        masks = [entry["mask"] for entry in entries] if any("mask" in entry for entry in entries) else None
        panoptic = None
        if "segmentation" in record:
            info = [{"id": one["id"], "category_id": one["category_id"]} for one in record["segments"]]
            panoptic = PanopticFile(record["segmentation"], info)
        return _checked(
            ImagePrediction(
                image_id,
                np.array([entry["score"] for entry in entries], dtype=np.float64),
                np.array([entry["class_id"] for entry in entries], dtype=np.int64),
                boxes,
                masks,
                panoptic,
            )
        )
    except KeyError as error:
        raise ValueError(f"image {image_id}: {error.args[0]} missing") from error


def _checked(prediction: ImagePrediction) -> ImagePrediction:
    if not (np.isfinite(prediction.scores).all() and np.isfinite(prediction.boxes_xywh).all()):
        raise ValueError(f"image {prediction.image_id}: a score or box is not finite")
    return prediction


def read_predictions(
    path: Path, id_of: Callable[[Record], int | None] = lambda record: record["id"]
) -> Iterator[ImagePrediction]:
    """Read a predictions file (`.jsonl`) or COCO results (a JSON array).

    Args:
        path: The file.
        id_of: Returns the ground truth's image id of a record, or None to skip it; not used for COCO results.

    Raises:
        ValueError: The file is neither; the message names the line or entry.
    """
    if path.suffix == ".jsonl":
        return _read_json_lines(path, id_of)
    return iter(_read_coco_results(path))


def match_images(images: Iterable[EvaluationImage]) -> Callable[[Record], int | None]:
    """Return a function that finds the image of a record by its path, or by its file name if it is unique."""
    by_path, by_name = {}, defaultdict(set)
    for image in images:
        by_path[image.path.resolve()] = image.id
        by_name[image.path.name].add(image.id)

    def id_of(record: Record) -> int | None:
        uri = record.get("uri", "")
        path = PurePosixPath(unquote(urlsplit(uri).path)) if uri.startswith(URL_PREFIXES) else Path(uri)
        named = by_name.get(path.name, ())
        if len(named) == 1:
            return next(iter(named))
        return by_path.get(Path(path).resolve())

    return id_of


def _read_json_lines(path: Path, id_of: Callable[[Record], int | None]) -> Iterator[ImagePrediction]:
    for record in read_records(path):
        number = id_of(record)
        if number is not None:
            try:
                yield from_record(record | {"id": number})
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: {error}") from error


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

    A detection without a box gets the box of its mask.

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
    """Return an entry for each detection in COCO's results format."""
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
