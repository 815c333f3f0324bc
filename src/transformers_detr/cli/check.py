"""`detr check`: the dataset doctor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from transformers_detr.data.findings import KINDS, Severity

if TYPE_CHECKING:
    from transformers_detr.data.check_workflow import CheckReport

EXAMPLES = 3
COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


def check(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Folder or file (COCO, VOC, YOLO, datasets), or Hub name.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every finding and the statistics.")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a cleaned copy, in COCO's layout; DIR must not exist.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read the headers of the images only.")] = False,
    queries: Annotated[
        int, typer.Option(metavar="N", min=1, help="Queries of the model: most objects it can find.")
    ] = 100,
    stride: Annotated[int, typer.Option(metavar="PIXELS", min=1, help="Pixels per cell of the feature map.")] = 32,
) -> None:
    """Find what is wrong with a dataset before training on it.

    Shows each kind of fault with its first places; --json has them all, by file, image and annotation. The
    exit status is 1 if there are errors. The dataset itself is never changed.
    """
    from transformers_detr.data.check_workflow import check_dataset
    from transformers_detr.data.cleaning import cleaned, write_coco

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
            json_file.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
        if fix is not None and report.dataset is not None:
            with _progress("Copying images") as progress:
                write_coco(cleaned(report), fix, progress)
    except OSError as error:
        console.print(f"[red]Not written:[/red] {escape(str(error))}")
        raise typer.Exit(1) from error
    if fix is not None and report.dataset is not None:
        console.print(f"\nCleaned copy in [bold]{escape(str(fix))}[/bold]; what is left to you there:")
        _show_findings(check_dataset(fix, quick=True, num_queries=queries, stride=stride), console)
    if report.count(Severity.ERROR):
        raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; gives the function that is called with what is done and the total."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_report(report: CheckReport, console: Console) -> None:
    """Show statistics and findings as tables."""
    if report.dataset is not None:
        console.print(f"[bold]{escape(report.name)}[/bold] ({report.dataset.format})")
        console.print(_splits_table(report))
        console.print(_classes_table(report))
        console.print(_sizes_table(report))
    _show_findings(report, console)


def _show_findings(report: CheckReport, console: Console) -> None:
    for code, findings in report.by_code().items():
        kind = KINDS[code]
        color = COLORS[kind.severity]
        repair = f"; --fix: {kind.repair}" if kind.repair else ""
        console.print(
            f"[{color}]{kind.severity}[/{color}] [bold]{code}[/bold] × {len(findings)}: {kind.meaning}{repair}"
        )
        for finding in findings[:EXAMPLES]:
            console.print(f"    {escape(str(finding)).removesuffix(escape(f' [{code}]'))}")
        if len(findings) > EXAMPLES:
            console.print(f"    … and {len(findings) - EXAMPLES} more")
    counts = ", ".join(f"{(n := report.count(severity))} {severity}{'s'[: n != 1]}" for severity in Severity)
    console.print(counts if report.findings else "[green]Nothing found.[/green]")


def _splits_table(report: CheckReport) -> Table:
    table = Table("split", *(("images", "without objects", "objects", "crowds", "most in an image")))
    for column in table.columns[1:]:
        column.justify = "right"
    for split, s in report.splits.items():
        numbers = (s.images, s.empty_images, s.objects, s.crowds, s.most_objects)
        table.add_row(split, *map(str, numbers))
    return table


def _classes_table(report: CheckReport) -> Table:
    """Objects of each class by split, the most frequent first."""
    table = Table("id", "class", *report.splits)
    for column in table.columns[2:]:
        column.justify = "right"
    counts = [statistics.class_counts for statistics in report.splits.values()]
    names = report.dataset.class_names if report.dataset else ()
    for label in sorted(range(len(names)), key=lambda label: -sum(count[label] for count in counts)):
        table.add_row(str(label), escape(names[label]), *(str(count[label]) for count in counts))
    return table


def _sizes_table(report: CheckReport) -> Table:
    """How large the objects are against a cell of the feature map."""
    table = Table("side in cells", "objects", "share")
    total = max(sum(report.box_cells.values()), 1)
    for cells, count in report.box_cells.items():
        table.add_row(cells, str(count), "█" * round(30 * count / total))
    return table
