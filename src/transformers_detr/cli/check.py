"""`detr check`: find problems in a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from transformers_detr.cli.check_output import show_findings, show_report
from transformers_detr.data.box_frames import Frame
from transformers_detr.data.readers import DATASET_HELP


def check(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=DATASET_HELP)],
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", rich_help_panel="Output", metavar="FILE", help="Write every finding and the statistics."
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Corrected copy",
            metavar="DIR",
            help="Write a corrected copy in COCO's layout; DIR must not exist.",
        ),
    ] = None,
    boxes_in: Annotated[
        Frame | None,
        typer.Option(
            rich_help_panel="Corrected copy",
            metavar="image|stated",
            help="With --fix: what boxes mean that fit both the image and another stated size.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", rich_help_panel="Checks", help="Read the headers of the images only.")
    ] = False,
    queries: Annotated[
        int,
        typer.Option(
            rich_help_panel="Checks", metavar="N", min=1, help="Queries of the model: most objects it can find."
        ),
    ] = 100,
    stride: Annotated[
        int, typer.Option(rich_help_panel="Checks", metavar="PIXELS", min=1, help="Pixels per cell of the feature map.")
    ] = 32,
) -> None:
    """Find problems in a dataset and write a corrected copy.

    Shows each kind of problem with examples. --json lists them all by file, image and annotation. The exit status is 1
    if there are errors. The dataset itself is never changed.
    """
    from transformers_detr.data.check_workflow import check_dataset

    if fix is not None and fix.exists():
        raise typer.BadParameter(f"{fix} exists already", param_hint="--fix")
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {json_file.parent}", param_hint="--json")
    console = Console(soft_wrap=True, highlight=False)
    with _progress("Examining images") as progress:
        report = check_dataset(dataset, quick=quick, num_queries=queries, stride=stride, progress=progress)
    show_report(report, console)
    try:
        if json_file is not None:
            report.save(json_file)
        if fix is not None and report.dataset is not None:
            with _progress("Copying images") as progress:
                report.fix(fix, progress, boxes_in=boxes_in)
    except OSError as error:
        console.print(f"[red]Not written:[/red] {escape(str(error))}")
        raise typer.Exit(1) from error
    if fix is not None and report.dataset is not None:
        console.print(f"\nCorrected copy in [bold]{escape(str(fix))}[/bold]. Problems left there:")
        show_findings(check_dataset(fix, quick=True, num_queries=queries, stride=stride), console)
    if report.errors:
        raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yield a function that takes the number of finished items and the total."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
