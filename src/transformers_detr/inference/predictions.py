"""Detections as lines of `predictions.jsonl`, and the tables made of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from transformers_detr.inference.detections import Detections
from transformers_detr.inference.image_run import OutputFormat
from transformers_detr.inference.run_folder import RunFolder, write_array
from transformers_detr.inference.sources import Source

COCO_RESULTS = "coco_results.json"
CSV_TABLE = "predictions.csv"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def entries_of(found: Detections) -> list[dict[str, Any]]:
    """Return the form of the Hub's inference API with the class id, for each object."""
    pairs = zip(found.to_dict(), found.class_ids.tolist(), strict=True)
    return [{**entry, "category_id": label} for entry, label in pairs]


def detections_of(record: dict[str, Any]) -> Detections:
    """Rebuild the detections of an image from its record."""
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
        records: Records of images or frames.
        file: Open text file.
        places: Entries of the record in the first columns.
        more: Further entries of the detection in the last columns.
    """
    writer = csv.writer(file)
    writer.writerow([*places, "label", "category_id", "score", *_SIDES, *more])
    for record in records:
        for found in record.get("detections", ()):
            values = [found["label"], found["category_id"], found["score"], *(found["box"][side] for side in _SIDES)]
            writer.writerow([*(record[place] for place in places), *values, *(found[name] for name in more)])


def _record(source: Source, found: Detections, output: Path | None) -> dict[str, Any]:
    return {"detections": entries_of(found)}


def _finish(run: RunFolder) -> None:
    records = (record for record in run.records() if "error" not in record)
    entries = (entry for record in records for entry in detections_of(record).to_coco(record["image_id"]))
    run.write_aside(COCO_RESULTS, lambda file: write_array(entries, file))
    run.write_aside(CSV_TABLE, lambda file: write_csv(run.records(), file))


DETECTIONS = OutputFormat(found="detections", folders=(), record=_record, finish=_finish)
"""Records, COCO results and CSV table of a detector."""
