"""`detr benchmark`: time the ways to run a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from transformers_detr.export.benchmark import BenchmarkResult


def benchmark(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", rich_help_panel="Model", metavar="NAME|DIR", help="Name on the Hub, or a folder."
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel="Measurement",
            metavar="PATH",
            help="Images or folders to run on.",
            show_default="one generated, 640x480",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "-b", rich_help_panel="Measurement", metavar="N", min=1, help="Images in a batch."
        ),
    ] = 1,
    repeats: Annotated[
        int, typer.Option(rich_help_panel="Measurement", metavar="N", min=1, help="Timed runs of each option.")
    ] = 5,
    threads: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Measurement",
            metavar="N",
            min=1,
            help="Number of CPU threads.",
            show_default="PyTorch's default",
        ),
    ] = None,
    exported: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Model",
            metavar="DIR",
            help="Folder that detr export wrote.",
            show_default="a temporary export",
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option(rich_help_panel="Measurement", help="Whether to try torch.compile, which takes a minute.")
    ] = True,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel="Output", metavar="FILE", help="JSON for the results."),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(rich_help_panel="Model", metavar="NAME", help="Branch, tag or commit of the model on the Hub."),
    ] = None,
) -> None:
    """Time the ways to run a model on this machine, and recommend one.

    PyTorch, compiled PyTorch, and the exported or installed backends are measured: the model alone, without reading and
    resizing images. Runs are interleaved, so that a machine that slows down affects all alike. Results that differ from
    PyTorch's by more than half a pixel or a score of 0.001 are never the first choice.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with console.status(f"Loading {escape(model)}") as status:
            from transformers.utils.logging import disable_progress_bar

            from transformers_detr.export.benchmark import benchmark_backends

            disable_progress_bar()  # of reading weights
            result = benchmark_backends(
                model,
                images=images,
                batch_size=batch_size,
                repeats=repeats,
                threads=threads,
                exported=exported,
                compiled=compiled,
                revision=revision,
                progress=lambda step: status.update(escape(step)),
            )
    except (OSError, ValueError) as error:
        console.print(f"[red]Nothing was measured.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    Console(highlight=False).print(_table(result))
    typer.echo(result.recommendation)
    if output is not None:
        result.save(output)


def _table(result: BenchmarkResult) -> Table:
    table = Table("option")
    for head in ("ms per image", "speed vs. PyTorch", "boxes, px", "scores"):
        table.add_column(head, justify="right")
    table.add_column("")
    eager = result.rows[0].milliseconds or float("nan")
    for row in result.rows:
        if row.milliseconds is None or row.difference is None:
            table.add_row(row.name, "–", "", "", "", escape(row.note))
            continue
        numbers = (f"{row.milliseconds:.1f}", f"{eager / row.milliseconds:.2f}x")
        table.add_row(row.name, *numbers, f"{row.difference.box_px:.2g}", f"{row.difference.score:.1g}", row.note)
    return table
