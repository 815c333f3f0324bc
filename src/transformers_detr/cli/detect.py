"""`detr detect`: detect objects in images and videos."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.cli.options import (
    BackendName,
    BatchSize,
    Device,
    DtypeName,
    Inputs,
    Model,
    Output,
    Overwrite,
    PrecisionName,
    Recursive,
    Resume,
    Revision,
    SaveImages,
    exported_options,
    load_predictor,
)
from transformers_detr.cli.run_images import run_images
from transformers_detr.cli.run_videos import run_videos
from transformers_detr.inference.sources import gather_videos


def detect(
    inputs: Inputs,
    model: Model = "facebook/detr-resnet-50",
    output: Output = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            "-t",
            rich_help_panel="Detection",
            metavar="SCORE",
            min=0,
            max=1,
            help="Minimum score of a detection; 0 keeps all.",
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
        int | None,
        typer.Option(
            rich_help_panel="Videos", metavar="N", min=1, help="Look at every N-th frame of a video.", show_default="1"
        ),
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", rich_help_panel="Videos", help="Track objects through a video.")
    ] = False,
    images: SaveImages = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Detect objects in images and videos.

    For one image, a table of the detections is shown. With --output, DIR receives annotated/ (annotated images),
    predictions.jsonl (one line per image, in input order, written during the run), coco_results.json and
    predictions.csv.

    For a video, DIR receives predictions.jsonl (one line per frame, with its time), predictions.csv, and an annotated
    copy with the sound of the original. `--no-images` leaves out the copy.

    An image that cannot be read is reported and skipped; the exit status is then 1.
    """
    try:
        videos = gather_videos(inputs)
    except (ValueError, FileNotFoundError) as error:
        raise typer.BadParameter(str(error)) from error
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    options = exported_options(backend, precision)
    if videos:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        run_videos(
            videos,
            output,
            partial(load_predictor, "Detector", options, model, device, dtype, revision, console),
            console,
            settings={"model": model, "revision": revision, "dtype": dtype, **options},
            threshold=threshold,
            batch_size=batch_size,
            save_video=images,
            stride=stride or 1,
            track=track,
            resume=resume,
            overwrite=overwrite,
        )
    if stride or track:
        raise typer.BadParameter("--stride and --track are for videos")
    run_images(
        "Detector",
        options,
        show_detections,
        inputs,
        output,
        model=model,
        revision=revision,
        device=device,
        dtype=dtype,
        threshold=threshold,
        batch_size=batch_size,
        recursive=recursive,
        save_images=images,
        resume=resume,
        overwrite=overwrite,
    )


def show_detections(record: dict[str, Any]) -> None:
    """Show the detections of one image, the best first."""
    title = f"{record['uri']} ({record['width']} × {record['height']})"
    table = Table("class", title=escape(title), title_justify="left")
    for column in ("score", "left", "top", "right", "bottom"):
        table.add_column(column, justify="right")
    for found in sorted(record["detections"], key=lambda found: -found["score"]):
        numbers = [f"{found['score']:.3f}", *(f"{found[side]:.1f}" for side in ("xmin", "ymin", "xmax", "ymax"))]
        table.add_row(escape(found["label"]), *numbers)
    Console().print(table)
