"""Tables of a dataset check, which `detr check` and `detr train` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.data.findings import KINDS, Severity

if TYPE_CHECKING:
    from transformers_detr.data.check_workflow import CheckReport

EXAMPLES = 3
COLORS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "blue"}


def show_report(report: CheckReport, console: Console) -> None:
    """Show statistics and findings as tables."""
    if report.dataset is not None:
        console.print(f"[bold]{escape(report.name)}[/bold] ({report.dataset.format})")
        console.print(_splits_table(report))
        console.print(_classes_table(report))
        console.print(_sizes_table(report))
    show_findings(report, console)


def show_findings(report: CheckReport, console: Console) -> None:
    """Show each kind of finding with a few examples."""
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
    """Return a table of the objects of each class by split, the most frequent class first."""
    table = Table("id", "class", *report.splits)
    for column in table.columns[2:]:
        column.justify = "right"
    counts = [statistics.class_counts for statistics in report.splits.values()]
    names = report.dataset.class_names if report.dataset else ()
    for label in sorted(range(len(names)), key=lambda label: -sum(count[label] for count in counts)):
        table.add_row(str(label), escape(names[label]), *(str(count[label]) for count in counts))
    return table


def _sizes_table(report: CheckReport) -> Table:
    """Return a table of object sizes in cells of the feature map."""
    table = Table("side in cells", "objects", "share")
    total = max(sum(report.box_cells.values()), 1)
    for cells, count in report.box_cells.items():
        table.add_row(cells, str(count), "█" * round(30 * count / total))
    return table
