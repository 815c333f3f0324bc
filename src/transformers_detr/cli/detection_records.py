"""Detections as the lines of `predictions.jsonl`, and as the tables made of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers_detr.inference.detections import Detections

CSV_TABLE = "predictions.csv"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def entries_of(found: Detections) -> list[dict[str, Any]]:
    """What is kept of each object: the form of the Hub's inference API, and the class id."""
    pairs = zip(found.to_dict(), found.class_ids.tolist(), strict=True)
    return [{**entry, "category_id": label} for entry, label in pairs]


def detections_of(record: dict[str, Any]) -> Detections:
    """Rebuild the detections of a picture from its record."""
    import numpy as np

    from transformers_detr.inference.detections import Detections

    found = record["detections"]
    boxes = [[entry["box"][side] for side in _SIDES] for entry in found]
    return Detections(
        boxes_xyxy_px=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.array([entry["score"] for entry in found], dtype=np.float32),
        class_ids=np.array([entry["category_id"] for entry in found], dtype=np.int64),
        labels=[entry["label"] for entry in found],
        image_size=(record["height"], record["width"]),
    )


def write_csv(
    records: Iterable[dict[str, Any]], file: IO[str], places: Sequence[str] = ("file",), more: Sequence[str] = ()
) -> None:
    """Write a table with one row per detection.

    Args:
        records: Those of pictures, or of frames.
        file: Where to.
        places: Entries of a record that its rows begin with.
        more: Further entries of a detection, that its row ends with.
    """
    writer = csv.writer(file)
    writer.writerow([*places, "label", "category_id", "score", *_SIDES, *more])
    for record in records:
        for found in record.get("detections", ()):
            values = [found["label"], found["category_id"], found["score"], *(found["box"][side] for side in _SIDES)]
            writer.writerow([*(record[place] for place in places), *values, *(found[name] for name in more)])
