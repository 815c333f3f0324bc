"""`detr export`: a model for other runtimes, compared with PyTorch before it is handed over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.cli.image_run import Backend


def export(
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME|DIR", help="Name on the Hub, or a folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make; it must not exist.")],
    formats: Annotated[
        list[Backend] | None,
        typer.Option("--format", "-f", help="What to write; may be given several times.", show_default="onnx"),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Write a float16 model too.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write an 8-bit model too.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of pictures, searched to the bottom, to find 8-bit ranges with."),
    ] = None,
    calibration_pictures: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many of them.")] = 64,
    fixed_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Only this size, to which pictures are padded.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Pictures or folders to compare on.", show_default="generated scenes"),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="DATASET", help="Labeled pictures to compare AP on.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Part of the dataset.", show_default="val, or the only one")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many labeled pictures.")] = 200,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of the model on the Hub.")
    ] = None,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO, transformers.js or a plain PyTorch program.

    Batch, height and width stay free, and a pixel mask is an input: with it, a picture in a padded batch gets what it
    gets alone, wherever the backbone allows that. The folder is laid out as transformers.js expects it
    (onnx/model.onnx, model_fp16.onnx, model_quantized.onnx); `Detector.from_pretrained(DIR, backend="onnx")` runs it in
    Python. TensorRT builds its engines from the ONNX files.

    At the end every graph is compared with PyTorch, on each picture alone, in padded batches and at odd sizes, and, on
    labeled pictures, by AP: see export_report.md in DIR. The exit status is 1 where a float32 graph is off by more
    than 0.5 pixels or a score of 0.001.

    --int8 with --calibration rounds backbone and encoder by ranges found on those pictures; without it, only the
    weights of the transformer.
    """
    if calibration is not None and not int8:
        raise typer.BadParameter("--calibration goes with --int8")
    size = _read_size(fixed_size)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with console.status(f"Loading {escape(model)}") as status:
            from transformers_detr.cli import export_run as run

            request = run.Request(
                model=model,
                revision=revision,
                formats=tuple(str(one) for one in formats or [Backend.onnx]),  # type: ignore[misc]
                precisions=("fp32", *["fp16"] * fp16, *["int8"] * int8),  # type: ignore[arg-type]
                fixed_size=size,
                calibration=calibration,
                calibration_pictures=calibration_pictures,
                images=tuple(images or ()),
                data=data,
                split=split,
                limit=limit,
            )
            compared, torch_ap = run.run(request, output, lambda step: status.update(escape(step)))
    except FileExistsError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    except ImportError as error:
        console.print(f"[red]{escape(str(error))}.[/] Exporting needs: pip install 'transformers-detr\\[export]'")
        raise typer.Exit(1) from error
    except (OSError, ValueError) as error:
        console.print(f"[red]Nothing was exported.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    heads, rows = run.summary_rows(compared, torch_ap)
    table = Table(*heads, title="Largest differences from PyTorch", title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)
    broken = [line for one in compared for line in one.broken]
    for line in broken:
        console.print(f"[red]tolerance broken:[/] {escape(line)}")
    typer.echo(f"exported to {output}; report: {output / run.REPORT_TABLE}")
    raise typer.Exit(1 if broken else 0)


def _read_size(text: str | None) -> tuple[int, int] | None:
    """Read `HxW`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if not found or min(map(int, found.groups())) < 64:
        raise typer.BadParameter(f"must be HEIGHTxWIDTH, each at least 64, such as 800x1344, got {text!r}")
    return int(found[1]), int(found[2])
