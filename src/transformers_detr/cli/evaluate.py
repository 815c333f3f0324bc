"""The command `detr evaluate`: score a model, or a predictions file, on a labeled dataset."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from transformers_detr.cli.evaluate_output import progress_bars, show_result
from transformers_detr.cli.options import BackendName, Device, DtypeName, PrecisionName, Revision, exported_options
from transformers_detr.data.readers import DATASET_HELP
from transformers_detr.evaluation import Padding


def _number_or_queries(text: str) -> str:
    """Parse `--max-detections`; it must exceed 10, which is the second of COCO's three limits."""
    if text == "queries" or (text.isdecimal() and int(text) > 10):
        return text
    raise typer.BadParameter(f"{text!r} is neither 'queries' nor a number above 10")


def evaluate(
    data: Annotated[str, typer.Option("--data", "-d", rich_help_panel="Data", metavar="DATASET", help=DATASET_HELP)],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", rich_help_panel="Model", metavar="MODEL", help="Name on the Hub, or a folder."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Model",
            metavar="FILE",
            help="Score this file instead: predictions.jsonl, or COCO results (.json).",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", rich_help_panel="Output", metavar="DIR", help="Folder for predictions and report."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Data", metavar="NAME", help="Split of the dataset.", show_default="val, or the only one"
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", rich_help_panel="Model", metavar="N", min=1, help="Images per batch.")
    ] = 4,
    padding: Annotated[
        Padding,
        typer.Option(
            rich_help_panel="Padding",
            metavar="exact|original",
            help="exact: same result at any batch size; original: as the original implementation pads.",
        ),
    ] = "exact",
    check_padding: Annotated[
        bool,
        typer.Option(
            "--check-padding",
            rich_help_panel="Padding",
            help="Compare each image alone and in its batch, under both paddings.",
        ),
    ] = False,
    max_detections: Annotated[
        str,
        typer.Option(
            rich_help_panel="Metrics",
            metavar="N|queries",
            help="Largest number of detections per image and class, highest scores first.",
            callback=_number_or_queries,
        ),
    ] = "100",
    threshold: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Metrics",
            metavar="SCORE",
            min=0,
            max=1,
            help="Score for the confusion matrix.",
            show_default="the score with the best F1",
        ),
    ] = None,
    panoptic: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Data",
            metavar="FILE",
            help="COCO's panoptic JSON.",
            show_default="the one beside the instances file",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(rich_help_panel="Data", metavar="N", min=1, help="Only the first N images.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Model",
            metavar="PIXELS",
            min=16,
            help="Resize the shorter side to PIXELS.",
            show_default="the model's",
        ),
    ] = None,
    device: Device = None,
    dtype: DtypeName = None,
    backend: BackendName = None,
    precision: PrecisionName = None,
    revision: Revision = None,
    data_name: Annotated[
        str | None,
        typer.Option(rich_help_panel="Model card", metavar="TEXT", help="Name of the dataset."),
    ] = None,
    data_revision: Annotated[
        str | None, typer.Option(rich_help_panel="Model card", metavar="TEXT", help="Version of the dataset.")
    ] = None,
    coco_results: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Output",
            metavar="FILE",
            help="Write the detections as COCO results, with the class ids used.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", rich_help_panel="Output", help="Resume the run in DIR.")] = False,
) -> None:
    """Measure average precision, and panoptic quality, on a labeled dataset.

    Every query counts, boxes keep their fractions, and no score threshold is applied. With --output, DIR
    receives predictions.jsonl (written during the run), metrics.json, per_class.csv, report.html and more.
    For several processes, use `torchrun --nproc-per-node N --no-python detr evaluate …`.

    An image that cannot be read is reported and counts as an image without detections; the exit status is then 1.
    """
    if (model is None) == (predictions is None):
        raise typer.BadParameter("give either --model or --predictions")
    if model is not None and output is None:
        raise typer.BadParameter("--model needs a folder for the predictions", param_hint="--output")
    if backend is not None and check_padding:
        raise typer.BadParameter("the padding of an exported model is fixed", param_hint="--check-padding")
    exported = exported_options(backend, precision)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    from transformers.utils.logging import disable_progress_bar

    from transformers_detr.evaluation.distributed import join_processes
    from transformers_detr.evaluation.evaluation_report import can_draw_charts
    from transformers_detr.evaluation.evaluation_workflow import evaluate as evaluate_model

    disable_progress_bar()  # of reading weights
    with join_processes() as rank:
        console.quiet = rank > 0
        try:
            with progress_bars(console) as progress:
                result = evaluate_model(
                    model,
                    data,
                    predictions=predictions,
                    split=split,
                    limit=limit,
                    output_dir=output,
                    resume=resume,
                    batch_size=batch_size,
                    padding=padding,
                    check_padding=check_padding,
                    max_detections="queries" if max_detections == "queries" else int(max_detections),
                    panoptic=panoptic,
                    size=size,
                    device=device,
                    dtype=dtype,
                    revision=revision,
                    progress=progress,
                    **exported,
                )
        except (OSError, ValueError) as error:
            console.print(f"[red]Nothing was measured.[/] {escape(str(error))}")
            raise typer.Exit(1) from error
    if rank:
        return
    show_result(result)
    try:
        if coco_results is not None:
            result.to_coco_results(coco_results)
        if output is not None:
            page = result.save(
                output,
                threshold=threshold,
                dataset_name=data_name,
                dataset_revision=data_revision,
                command=shlex.join(["detr", *sys.argv[1:]]),
            )
            if not can_draw_charts():
                console.print("The report has no charts: they need matplotlib (pip install matplotlib)")
            typer.echo(f"report: {page}")
    except OSError as error:
        console.print(f"[red]Measured, but not written.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    for note in result.notes:
        console.print(f"[yellow]note:[/] {escape(note)}")
    for reason in result.unreadable.values():
        console.print(f"[yellow]not predicted:[/] {escape(reason)}")
    raise typer.Exit(1 if result.unreadable else 0)
