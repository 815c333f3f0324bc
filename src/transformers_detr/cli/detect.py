"""`detr detect`: find objects in pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.cli.detection_records import CSV_TABLE, detections_of, entries_of, write_csv
from transformers_detr.cli.image_run import (
    BackendName,
    BatchSize,
    Device,
    DtypeName,
    Inputs,
    Job,
    Model,
    Output,
    Overwrite,
    Pictures,
    PrecisionName,
    Recursive,
    Resume,
    Revision,
    exported_options,
    load_predictor,
    run_job,
    run_settings,
)
from transformers_detr.cli.run_folder import RunFolder, write_array
from transformers_detr.inference.sources import Source, gather_videos

if TYPE_CHECKING:
    from transformers_detr.inference.detections import Detections
    from transformers_detr.inference.detector import Detector

COCO_RESULTS = "coco_results.json"


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
    backend: BackendName = None,
    precision: PrecisionName = None,
    revision: Revision = None,
    recursive: Recursive = False,
    stride: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of a video, look at every N-th frame.", show_default="1")
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="In a video, number objects and follow them from frame to frame.")
    ] = False,
    pictures: Pictures = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Find objects in pictures and videos.

    For one picture, a table of what was found is shown. With --output, DIR receives annotated/ (a copy of
    each picture with its boxes), predictions.jsonl (a line per picture, in input order, written as the run
    goes on) and, at the end, coco_results.json and predictions.csv.

    From a video, DIR receives predictions.jsonl (a line per frame, with its time), predictions.csv, and an annotated
    copy with the sound of the original. `--no-pictures` leaves the copy out.

    A picture that cannot be read is reported and skipped; the exit status is then 1.
    """
    try:
        videos = gather_videos(inputs)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    options = exported_options(backend, precision)
    if videos:
        from transformers_detr.cli.video_run import detect_in_videos

        console = Console(stderr=True, soft_wrap=True, highlight=False)
        detect_in_videos(
            videos,
            output,
            partial(load_predictor, _detector, options, model, device, dtype, revision, console),
            run_settings(model, revision, dtype, threshold, batch_size, **options),
            console,
            stride=stride or 1,
            track=track,
            pictures=pictures,
            resume=resume,
            overwrite=overwrite,
        )
    if stride or track:
        raise typer.BadParameter("--stride and --track are for videos")
    job = Job(
        predictor=_detector,
        options=options,
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
    from transformers_detr.inference.detector import Detector

    return Detector


def _record(source: Source, found: Detections, output: Path | None) -> dict[str, Any]:
    return {"detections": entries_of(found)}


def _finish(run: RunFolder) -> None:
    records = (record for record in run.records() if "error" not in record)
    entries = (entry for record in records for entry in detections_of(record).to_coco(record["image_id"]))
    run.write_aside(COCO_RESULTS, lambda file: write_array(entries, file))
    run.write_aside(CSV_TABLE, lambda file: write_csv(run.records(), file))


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
