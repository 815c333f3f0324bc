"""`detr benchmark`: how a model runs best on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def benchmark(
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME|DIR", help="Name on the Hub, or a folder.")],
    pictures: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="PATH", help="Pictures to run on.", show_default="one generated, 640x480"),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", metavar="N", min=1, help="Pictures at once.")] = 1,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Timed runs of each option.")] = 5,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processor threads.", show_default="as PyTorch chooses")
    ] = None,
    exported: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="What detr export wrote.", show_default="exported for the occasion"),
    ] = None,
    compiled: Annotated[bool, typer.Option(help="Whether to try torch.compile, which takes a minute.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="JSON for the results.")] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of the model on the Hub.")
    ] = None,
) -> None:
    """Measure the ways to run a model on this machine, and say which to use.

    PyTorch as it is and compiled, ONNX Runtime, OpenVINO, and both in 8 bits, as far as they are installed: the model
    alone, without reading and resizing pictures. They take turns, so that a machine that slows down slows all of them.
    Answers are compared with PyTorch's; what is off by more than half a pixel or a score of 0.001 is never the first
    choice.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with console.status(f"Loading {escape(model)}") as status:
            from transformers_detr.cli import benchmark_run as run

            results = run.run(
                model,
                revision,
                pictures=tuple(pictures or ()),
                batch_size=batch_size,
                repeats=repeats,
                threads=threads,
                exported=exported,
                compiled=compiled,
                notify=lambda step: status.update(escape(step)),
            )
    except (OSError, ValueError) as error:
        console.print(f"[red]Nothing was measured.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    table = Table("option", title_justify="left")
    for head in ("ms per picture", "against PyTorch", "boxes, px", "scores"):
        table.add_column(head, justify="right")
    table.add_column("")
    eager = results[0].milliseconds or float("nan")
    for one in results:
        if one.milliseconds is None or one.difference is None:
            table.add_row(one.name, "–", "", "", "", escape(one.note))
            continue
        numbers = (f"{one.milliseconds:.1f}", f"{eager / one.milliseconds:.2f}x")
        table.add_row(one.name, *numbers, f"{one.difference.box_px:.2g}", f"{one.difference.score:.1g}", one.note)
    Console(highlight=False).print(table)
    typer.echo(run.advice(results))
    if output is not None:
        output.write_text(json.dumps([asdict(one) for one in results], indent=2) + "\n", encoding="utf-8")
