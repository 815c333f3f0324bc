"""Summary files of `detr detect`, written from its records: COCO results and a CSV table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from transformers_detr.inference.detections import Detections
from transformers_detr.inference.output_format import OutputFormat
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.predictions import SIDES, Record, to_detections, to_entries
from transformers_detr.inference.sources import Source

COCO_RESULTS = "coco_results.json"
CSV_TABLE = "predictions.csv"
_COLUMNS = ("label", "class_id", "score", *SIDES)


def write_csv(
    records: Iterable[Record], file: IO[str], places: Sequence[str] = ("uri",), more: Sequence[str] = ()
) -> None:
    """Write a table with one row per detection.

    Args:
        records: Records of images or frames.
        file: Open text file.
        places: Entries of the record in the first columns.
        more: Further entries of the detection in the last columns.
    """
    writer = csv.writer(file)
    writer.writerow([*places, *_COLUMNS, *more])
    for record in records:
        for found in record.get("detections", ()):
            writer.writerow([*(record[place] for place in places), *(found[name] for name in (*_COLUMNS, *more))])


def write_array(entries: Iterable[Any], file: IO[str]) -> None:
    """Write a JSON array, one entry per line."""
    separator = "[\n"
    for entry in entries:
        file.write(separator + json.dumps(entry))
        separator = ",\n"
    file.write("\n]\n" if separator == ",\n" else "[]\n")


def _record(source: Source, found: Detections, output: Path | None) -> Record:
    return {"detections": to_entries(found)}


def _finish(run: PredictionWriter) -> None:
    records = (record for record in run.records() if "error" not in record)
    entries = (entry for record in records for entry in to_detections(record).to_coco(record["id"]))
    run.write_file(COCO_RESULTS, lambda file: write_array(entries, file))
    run.write_file(CSV_TABLE, lambda file: write_csv(run.records(), file))


DETECTIONS = OutputFormat(found="detections", folders=(), record=_record, finish=_finish)
"""Records, COCO results and CSV table of a detector."""
