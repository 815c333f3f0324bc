"""`detr segment`: segment images."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.cli.detect import show_detections
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
)
from transformers_detr.cli.run_images import run_images

SegmentationTask = Literal["panoptic", "instance", "semantic"]


def segment(
    inputs: Inputs,
    model: Model = "facebook/detr-resnet-50-panoptic",
    output: Output = None,
    task: Annotated[
        SegmentationTask,
        typer.Option(
            rich_help_panel="Segmentation",
            metavar="|".join(get_args(SegmentationTask)),
            help="Things and stuff, countable things, or a class for each pixel.",
        ),
    ] = "panoptic",
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            "-t",
            rich_help_panel="Segmentation",
            metavar="SCORE",
            min=0,
            max=1,
            help="Keep segments that score above this; not for semantic segmentation.",
            show_default="panoptic 0.85, instance 0.5",
        ),
    ] = None,
    batch_size: BatchSize = 4,
    device: Device = None,
    dtype: DtypeName = None,
    backend: BackendName = None,
    precision: PrecisionName = None,
    revision: Revision = None,
    recursive: Recursive = False,
    images: SaveImages = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment images.

    For one image, a table of its segments is shown. With --output, DIR receives annotated/ (annotated images) and
    predictions.jsonl (one line per image, in input order, written during the run); and, by task, the files of COCO's
    tools: panoptic/ (images of segment ids) with panoptic.json; coco_results.json with run-length codes of the
    instances; semantic/ (images of class ids).

    An image that cannot be read is reported and skipped; the exit status is then 1.
    """
    if task == "semantic" and threshold is not None:
        raise typer.BadParameter("semantic segmentation has no threshold", param_hint="--threshold")
    run_images(
        "Segmenter",
        {"task": task} | exported_options(backend, precision),
        _show,
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


def _show(record: dict[str, Any]) -> None:
    """Show the segments of one image, the largest first, or its instances, the best first."""
    if "detections" in record:
        show_detections(record)
        return
    title = f"{record['uri']} ({record['width']} × {record['height']})"
    table = Table("class", title=escape(title), title_justify="left")
    for column in ("score", "area", "left", "top", "width", "height"):
        table.add_column(column, justify="right")
    pixels = record["width"] * record["height"]
    for segment in sorted(record["segments"], key=lambda segment: -segment["area"]):
        score = "" if segment["score"] is None else f"{segment['score']:.3f}"
        share = f"{100 * segment['area'] / pixels:.1f} %"
        table.add_row(escape(segment["label"]), score, share, *map(str, segment["bbox"]))
    Console().print(table)
