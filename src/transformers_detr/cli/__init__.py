"""The command `detr`, one file per verb. What is heavy is imported where a verb needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from transformers_detr import __version__
from transformers_detr.cli.benchmark import benchmark
from transformers_detr.cli.check import check
from transformers_detr.cli.demo import demo
from transformers_detr.cli.detect import detect
from transformers_detr.cli.evaluate import evaluate
from transformers_detr.cli.explain import explain
from transformers_detr.cli.export import export
from transformers_detr.cli.push import push
from transformers_detr.cli.scenes import scenes
from transformers_detr.cli.segment import segment
from transformers_detr.cli.serve import serve
from transformers_detr.cli.train import train

app = typer.Typer(
    name="detr",
    help="Object detection and segmentation with DETR.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(detect)
app.command()(segment)
app.command()(train)
app.command()(evaluate)
app.command()(export)
app.command()(benchmark)
app.command()(explain)
app.command()(check)
app.command()(scenes)
app.command()(push)
app.command()(serve)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"detr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app()
