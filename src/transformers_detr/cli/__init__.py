"""The command `detr`, one file per subcommand. Each subcommand imports heavy packages when it runs."""

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
from transformers_detr.cli.help import Command, Group
from transformers_detr.cli.push import push
from transformers_detr.cli.scenes import scenes
from transformers_detr.cli.segment import segment
from transformers_detr.cli.serve import serve
from transformers_detr.cli.train import train

app = typer.Typer(
    name="detr",
    cls=Group,
    help="Object detection and segmentation with DETR.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS = {
    "Use a model": (demo, detect, segment, explain, serve),
    "Train and measure": (check, scenes, train, evaluate),
    "Ship": (export, benchmark, push),
}
for panel, functions in PANELS.items():
    for function in functions:
        app.command(cls=Command, rich_help_panel=panel)(function)


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
    app(prog_name="detr")
