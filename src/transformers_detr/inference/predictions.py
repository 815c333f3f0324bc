"""The predictions format: JSON Lines with a header, then one record per image or video frame.

The header holds `model`, `model_digest`, `class_names`, `settings` and `settings_digest`. A record is
`{"id", "uri", "width", "height", "detections": [{"label", "class_id", "score", "xmin", "ymin", "xmax", "ymax"}]}`.
Boxes are in pixels of the upright image, with fractions. A record may also have:

- `error` instead of a result,
- `mask` in a detection: COCO's run-length code (`detr segment --task instance`),
- `segments` and `segmentation`: COCO's entries of the segments, and the name of the file of their ids or classes,
- `annotated`: the annotated image, relative to the file,
- `frame` and `time` of a video frame; `id` is the number of the frame.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.inference.detections import Detections

SIDES = ("xmin", "ymin", "xmax", "ymax")
_NOT_OF_THE_MODEL = {"_name_or_path", "architectures", "transformers_version", "dtype", "_attn_implementation"}

Record = dict[str, Any]


class PredictionsError(ValueError):
    """A predictions file or its folder cannot be used as requested."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """First line of a predictions file: what the records depend on.

    Attributes:
        model: Name of the model.
        model_digest: See `model_digest`; None if unknown.
        class_names: Class names by class id.
        settings: All else that the records depend on, as JSON can hold it.
    """

    model: str | None = None
    model_digest: str | None = None
    class_names: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the line."""
        return {**asdict(self), "settings_digest": _digest_of_json(self.settings)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Header:
        """Return the header of a line."""
        names = ("model", "model_digest", "class_names", "settings")
        return cls(**{name: content[name] for name in names if name in content})


def model_digest(model: Any) -> str:
    """Return a SHA-256 of a model's configuration and weights; of its graph for an `ExportedModel`."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    digest = hashlib.sha256(_digest_of_json(config).encode())
    if isinstance(model, ExportedModel):
        for path in model.graph_files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    fused = getattr(model, "is_fused", False)
    if fused:
        model.unfuse()  # the digest is of the weights as stored
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    if fused:
        model.fuse()
    return digest.hexdigest()


def class_names(model: Any) -> list[str]:
    """Return the names of a model's classes, by class id."""
    return [model.config.id2label[label] for label in range(model.config.num_labels)]


def detection_entries(
    labels: Sequence[str],
    class_ids: Sequence[int],
    scores: Sequence[float],
    boxes_xyxy: Sequence[Sequence[float]],
    masks: Sequence[Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the `detections` of a record, given N of each."""
    entries = [
        {"label": label, "class_id": class_id, "score": score, **dict(zip(SIDES, box, strict=True))}
        for label, class_id, score, box in zip(labels, class_ids, scores, boxes_xyxy, strict=True)
    ]
    if masks is None:
        return entries
    return [{**entry, "mask": mask} for entry, mask in zip(entries, masks, strict=True)]


def boxes_of(entries: Sequence[Mapping[str, Any]], dtype: Any = np.float64) -> np.ndarray[Any, Any]:
    """Return the boxes `(N, 4)` of N detections: left, top, right, bottom in pixels."""
    return np.array([[entry[side] for side in SIDES] for entry in entries], dtype=dtype).reshape(-1, 4)


def to_entries(found: Detections) -> list[dict[str, Any]]:
    """Return detections as the `detections` of a record."""
    boxes = found.boxes_xyxy_px.tolist()
    return detection_entries(found.labels, found.class_ids.tolist(), found.scores.tolist(), boxes)


def to_detections(record: Record) -> Detections:
    """Return the detections of a record."""
    entries = record["detections"]
    return Detections(
        boxes_xyxy_px=boxes_of(entries, np.float32),
        scores=np.array([entry["score"] for entry in entries], dtype=np.float32),
        class_ids=np.array([entry["class_id"] for entry in entries], dtype=np.int64),
        labels=[entry["label"] for entry in entries],
        image_size=(record["height"], record["width"]),
    )


def read_header(path: Path) -> Header | None:
    """Return the header of a predictions file; None if it has none.

    Raises:
        PredictionsError: The first line is not JSON.
    """
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    if not line.strip():
        return None
    content = _parse(path, 1, line)
    return Header.from_json(content) if "settings" in content else None


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a predictions file.

    Raises:
        PredictionsError: A line is not a record; the message names it.
    """
    for number, line in _lines(path):
        record = _parse(path, number, line)
        if "settings" in record:
            continue
        missing = {"id"} - record.keys()
        if "error" not in record and not {"detections", "segments"} & record.keys():
            missing.add("detections")
        if missing:
            raise PredictionsError(f"{path}, line {number}: {', '.join(sorted(missing))} missing")
        yield record


def record_lines(paths: Iterable[Path]) -> dict[int, str]:
    """Return the line of each record, by id."""
    return {
        record["id"]: line
        for path in paths
        for number, line in _lines(path)
        if "settings" not in (record := _parse(path, number, line))
    }


def to_line(content: Mapping[str, Any]) -> str:
    """Return a header or record as a line."""
    return json.dumps(content, ensure_ascii=False) + "\n"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8") as file:
        yield from enumerate(file, start=1)


def _parse(path: Path, number: int, line: str) -> Record:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise PredictionsError(f"{path}, line {number}: {error}") from error
    if not isinstance(content, dict):
        raise PredictionsError(f"{path}, line {number}: a record is a JSON object, got {type(content).__name__}")
    return content


def _digest_of_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
