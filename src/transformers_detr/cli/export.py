"""`detr export`: write a model for other runtimes, and compare it with PyTorch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.backends.registry import BACKENDS, titles


def export(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", rich_help_panel="Model", metavar="NAME|DIR", help="Name on the Hub, or a folder."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", rich_help_panel="Output", metavar="DIR", help="Folder to create.")
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            rich_help_panel="Formats",
            metavar="|".join(BACKENDS),
            help=f"Format to write: {titles()}. Repeat for several.",
            show_default="onnx",
        ),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", rich_help_panel="Formats", help="Write float16 graphs too.")] = False,
    int8: Annotated[bool, typer.Option("--int8", rich_help_panel="Formats", help="Write 8-bit graphs too.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Formats",
            metavar="DIR",
            help="Folder of images, searched recursively, to find 8-bit ranges with.",
        ),
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(rich_help_panel="Formats", metavar="N", min=1, help="Use the first N of them.")
    ] = 64,
    fixed_size: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Formats", metavar="HxW", help="Fix height and width; images are padded to this size."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel="Comparison with PyTorch",
            metavar="PATH",
            help="Images or folders to compare on.",
            show_default="generated scenes",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            rich_help_panel="Comparison with PyTorch",
            metavar="DATASET",
            help="Labeled images to compare AP on.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Comparison with PyTorch",
            metavar="NAME",
            help="Split of the dataset.",
            show_default="val, or the only one",
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            rich_help_panel="Comparison with PyTorch", metavar="N", min=1, help="Use the first N labeled images."
        ),
    ] = 200,
    revision: Annotated[
        str | None,
        typer.Option(rich_help_panel="Model", metavar="NAME", help="Branch, tag or commit of the model on the Hub."),
    ] = None,
) -> None:
    """Export a model for ONNX Runtime, OpenVINO, transformers.js or a plain PyTorch program.

    Batch size, height and width stay free, and the pixel mask is an input: an image in a padded batch gets the result
    that it gets alone, wherever the backbone allows it. The folder has the layout of transformers.js
    (onnx/model.onnx, model_fp16.onnx, model_quantized.onnx). TensorRT builds its engines from the ONNX files.

    Every graph is compared with PyTorch on single images, in padded batches and at odd sizes, and by AP on labeled
    images: see export_report.md in DIR. The exit status is 1 if a float32 graph differs by more than 0.5 pixels or a
    score of 0.001.

    --int8 with --calibration quantizes backbone and encoder with ranges measured on those images; without it, only the
    weights of the transformer.
    """
    if calibration is not None and not int8:
        raise typer.BadParameter("--calibration needs --int8")
    if unknown := next((name for name in formats or () if name not in BACKENDS), None):
        raise typer.BadParameter(f"{unknown!r} is not one of {', '.join(BACKENDS)}", param_hint="--format")
    size = _parse_size(fixed_size)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with console.status(f"Loading {escape(model)}") as status:
            from transformers.utils.logging import disable_progress_bar

            from transformers_detr.export.export_report import summary_rows
            from transformers_detr.export.export_workflow import export_model

            disable_progress_bar()  # of reading weights
            result = export_model(
                model,
                output,
                formats=formats or ("onnx",),  # type: ignore[arg-type]
                fp16=fp16,
                int8=int8,
                calibration=calibration,
                max_calibration_images=calibration_images,
                size=size,
                images=images,
                data=data,
                split=split,
                limit=limit,
                revision=revision,
                progress=lambda step: status.update(escape(step)),
            )
    except FileExistsError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    except (ImportError, OSError, ValueError) as error:
        console.print(f"[red]Nothing was exported.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    heads, rows = summary_rows(result.comparisons, result.torch_ap)
    table = Table(*heads, title="Largest differences from PyTorch", title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
    for line in result.violations:
        console.print(f"[red]tolerance exceeded:[/] {escape(line)}")
    typer.echo(f"exported to {output}; report: {result.report}")
    raise typer.Exit(0 if result.passed else 1)


def _parse_size(text: str | None) -> tuple[int, int] | None:
    """Parse `HxW`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if not found:
        raise typer.BadParameter(f"must be HEIGHTxWIDTH, such as 800x1344, got {text!r}", param_hint="--fixed-size")
    return int(found[1]), int(found[2])
