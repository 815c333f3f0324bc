"""`detr detect`: find objects in pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.cli.inputs import Source
from transformers_detr.cli.picture_run import (
    BatchSize,
    Device,
    DtypeName,
    Inputs,
    Job,
    Model,
    Output,
    Overwrite,
    Pictures,
    Recursive,
    Resume,
    Revision,
    run_job,
)
from transformers_detr.cli.run_folder import RunFolder, write_array

if TYPE_CHECKING:
    from transformers_detr.detections import Detections
    from transformers_detr.predictor import Detector

COCO_RESULTS = "coco_results.json"
CSV_TABLE = "predictions.csv"


def detect(
    inputs: Inputs,
    model: Model = "facebook/detr-resnet-50",
    output: Output = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", "-t", metavar="SCORE", min=0, max=1, help="Scores must lie above it; 0 keeps every query."
        ),
    ] = 0.7,
    batch_size: BatchSize = 4,
    device: Device = None,
    dtype: DtypeName = None,
    revision: Revision = None,
    recursive: Recursive = False,
    pictures: Pictures = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Find objects in pictures.

    For one picture, a table of what was found is shown. With --output, DIR receives annotated/ (a copy of
    each picture with its boxes), predictions.jsonl (a line per picture, in input order, written as the run
    goes on) and, at the end, coco_results.json and predictions.csv.

    A picture that cannot be read is reported and skipped; the exit status is then 1.
    """
    job = Job(
        predictor=_detector,
        options={},
        found="detections",
        folders=(),
        record=_record,
        finish=_finish,
        show=_show,
    )
    run_job(
        job,
        inputs,
        output,
        model=model,
        revision=revision,
        device=device,
        dtype=dtype,
        threshold=threshold,
        batch_size=batch_size,
        recursive=recursive,
        pictures=pictures,
        resume=resume,
        overwrite=overwrite,
    )


def _detector() -> type[Detector]:
    from transformers_detr.predictor import Detector

    return Detector


def _record(source: Source, found: Detections, output: Path | None) -> dict[str, Any]:
    pairs = zip(found.to_dict(), found.labels.tolist(), strict=True)
    return {"detections": [{**entry, "category_id": label} for entry, label in pairs]}


def _finish(run: RunFolder) -> None:
    records = (record for record in run.records() if "error" not in record)
    entries = (entry for record in records for entry in _detections(record).to_coco(record["image_id"]))
    run.write_aside(COCO_RESULTS, lambda file: write_array(entries, file))
    run.write_aside(CSV_TABLE, lambda file: _write_csv(run.records(), file))


def _detections(record: dict[str, Any]) -> Detections:
    """Rebuild the detections of a picture from its record."""
    import numpy as np

    from transformers_detr.detections import Detections

    found = record["detections"]
    boxes = [[entry["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for entry in found]
    return Detections(
        boxes_xyxy_px=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.array([entry["score"] for entry in found], dtype=np.float32),
        labels=np.array([entry["category_id"] for entry in found], dtype=np.int64),
        names=[entry["label"] for entry in found],
        image_size=(record["height"], record["width"]),
    )


def _write_csv(records: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """Write a table with one row per detection."""
    writer = csv.writer(file)
    writer.writerow(["file", "label", "category_id", "score", "xmin", "ymin", "xmax", "ymax"])
    for record in records:
        for found in record.get("detections", ()):
            box = [found["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
            writer.writerow([record["file"], found["label"], found["category_id"], found["score"], *box])


def _show(record: dict[str, Any]) -> None:
    """Show what was found in one picture, the surest first."""
    title = f"{record['file']} ({record['width']} × {record['height']})"
    table = Table("class", title=escape(title), title_justify="left")
    for column in ("score", "left", "top", "right", "bottom"):
        table.add_column(column, justify="right")
    for found in sorted(record["detections"], key=lambda found: -found["score"]):
        numbers = [f"{found['score']:.3f}", *(f"{side:.1f}" for side in found["box"].values())]
        table.add_row(escape(found["label"]), *numbers)
    Console().print(table)
