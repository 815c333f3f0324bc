"""`detr explain`: draw attention maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from transformers_detr.cli.options import (
    BatchSize,
    Device,
    DtypeName,
    Model,
    Recursive,
    Revision,
    load_predictor,
)
from transformers_detr.cli.progress import report_failure
from transformers_detr.inference.sources import IMAGE_SUFFIXES, Source, gather_sources


def explain(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO|FOLDER|GLOB|URL...", help="Images to explain, one figure each."),
    ] = None,
    model: Model = "facebook/detr-resnet-50",
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel="Output",
            metavar="FILE|DIR",
            help="Image to write, or folder for several.",
        ),
    ] = Path(),
    queries: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Queries",
            metavar="DATASET|FOLDER",
            help="Instead, draw the boxes that each query predicts over a dataset.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", "-t", rich_help_panel="Figure", metavar="SCORE", min=0, max=1, help="Minimum score."
        ),
    ] = 0.7,
    points: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            rich_help_panel="Figure",
            metavar="X,Y",
            help="Show the encoder self-attention of this point, relative to width and height, such as 0.5,0.25. Repeat"
            " for several points.",
            show_default="the centers of the objects with the highest scores",
        ),
    ] = None,
    max_objects: Annotated[
        int, typer.Option(rich_help_panel="Figure", metavar="N", min=1, help="Largest number of objects in a figure.")
    ] = 12,
    layer: Annotated[
        int,
        typer.Option(rich_help_panel="Figure", metavar="N", help="Layer of decoder and encoder; -1 is the last one."),
    ] = -1,
    limit: Annotated[
        int | None,
        typer.Option(rich_help_panel="Queries", metavar="N", min=1, help="With --queries, use the first N images."),
    ] = None,
    batch_size: BatchSize = 4,
    device: Device = None,
    dtype: DtypeName = None,
    revision: Revision = None,
    recursive: Recursive = False,
) -> None:
    """Show what the model attends to.

    Each image gets a figure with its objects, the decoder cross-attention of each object's query, and the encoder
    self-attention of some points. It is written as NAME-explained.png to the folder of --output, by default this one.

    With --queries, one chart of the boxes that each query predicts in all images of a dataset, queries.png.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if bool(inputs) == bool(queries):
        raise typer.BadParameter("give either images or --queries")
    try:
        points_xy = [_parse_point(text) for text in points] if points else None
        sources = gather_sources(inputs, recursive) if inputs else []
        targets = _targets(sources, output)
        images = _dataset_images(queries, limit) if queries else []
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    predictor: Any = load_predictor(None, {}, model, device, dtype, revision, console)
    if queries:
        _draw_queries(predictor, images, model, output, batch_size, console)
        return
    from transformers_detr.explanation.explanation import explain as explain_image

    failed = 0
    for source, target in zip(sources, targets, strict=True):
        try:
            explanation = explain_image(
                predictor,
                source.location,
                threshold=threshold,
                points_xy=points_xy,
                max_objects=max_objects,
                layer=layer,
                encoder_layer=layer,
            )
        except (OSError, ValueError, TypeError) as error:
            failed += 1
            report_failure({"uri": source.location, "error": str(error).removeprefix(f"{source.location}: ")}, console)
            continue
        explanation.save(target, f"{Path(source.location).name} · {model}")
        typer.echo(str(target))
    raise typer.Exit(1 if failed else 0)


def _dataset_images(queries: str, limit: int | None) -> list[Any]:
    from transformers_detr.explanation.query_boxes import dataset_images

    return list(dataset_images(queries, limit))


def _parse_point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"--point {text}: must be X,Y, two numbers between 0 and 1") from error
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"--point {text}: must lie between 0 and 1")
    return x, y


def _targets(sources: list[Source], output: Path) -> list[Path]:
    """Return the file to write for each source."""
    if _is_image_file(output):
        if len(sources) > 1:
            raise ValueError(f"{len(sources)} images need a folder, --output names the file {output}")
        return [output] * len(sources)
    names = [Path(source.output_name) for source in sources]
    return [output / name.with_name(f"{name.stem}-explained.png") for name in names]


def _is_image_file(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _draw_queries(
    predictor: Any, images: list[Any], model: str, output: Path, batch_size: int, console: Console
) -> None:
    from transformers_detr.atomic_io import atomic_file
    from transformers_detr.explanation.query_boxes import draw_queries, query_boxes

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    target = output if _is_image_file(output) else output / "queries.png"
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(images))
        try:
            boxes = query_boxes(predictor, images, batch_size=batch_size, progress=lambda: bar.advance(task))
            chart = draw_queries(boxes, model)
        except (OSError, ValueError, ImportError) as error:
            console.print(f"[red]Nothing was drawn.[/] {escape(str(error))}")
            raise typer.Exit(1) from error
    with atomic_file(target) as partial:
        chart.save(partial)
    typer.echo(str(target))
