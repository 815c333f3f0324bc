"""`detr explain`: show where the model looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from transformers_detr.atomic_io import atomic_file
from transformers_detr.cli.image_run import (
    BatchSize,
    Device,
    DtypeName,
    Model,
    Recursive,
    Revision,
    load_predictor,
)
from transformers_detr.cli.run_folder import report_failure
from transformers_detr.inference.sources import Source, gather_sources

if TYPE_CHECKING:
    from transformers_detr.inference.detector import Detector


def explain(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO|FOLDER|GLOB|URL...", help="Pictures to explain, one sheet each."),
    ] = None,
    model: Model = "facebook/detr-resnet-50",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE|DIR", help="Picture to write, or folder for several.")
    ] = Path(),
    queries: Annotated[
        str | None,
        typer.Option(metavar="DATASET|FOLDER", help="Instead: where each query finds its objects, over a dataset."),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", metavar="SCORE", min=0, max=1, help="Scores must lie above it.")
    ] = 0.7,
    points: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="X,Y",
            help="Point whose attention in the encoder is shown, as parts of width and height, such as 0.5,0.25;"
            " several times for several.",
            show_default="the middles of the surest objects",
        ),
    ] = None,
    most: Annotated[int, typer.Option(metavar="N", min=1, help="Objects on a sheet, the surest.")] = 12,
    layer: Annotated[int, typer.Option(metavar="N", help="Layer of decoder and encoder; -1 is the last.")] = -1,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="With --queries: the first N pictures.")] = None,
    batch_size: BatchSize = 4,
    device: Device = None,
    dtype: DtypeName = None,
    revision: Revision = None,
    recursive: Recursive = False,
) -> None:
    """Show where the model looks.

    A sheet for each picture: its objects, where the decoder looked for each of them, and what chosen points attend to
    in the encoder. It is written as NAME-explained.png to the folder that --output names, or else to this one.

    With --queries, one chart of where each query's boxes lie in all pictures of a dataset, queries.png.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if bool(inputs) == bool(queries):
        raise typer.BadParameter("give either pictures or --queries")
    try:
        chosen = [_point(text) for text in points] if points else None
        sources = gather_sources(inputs, recursive) if inputs else []
        pictures = _pictures(queries, limit) if queries else []
        targets = _targets(sources, output)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    predictor: Any = load_predictor(lambda: _predictor(model, revision), {}, model, device, dtype, revision, console)
    if queries:
        _draw_queries(predictor, pictures, model, output, batch_size, console)
        return
    from transformers_detr.explanation.explanation import explain as explain_picture

    failed = 0
    for source, target in zip(sources, targets, strict=True):
        try:
            found = explain_picture(
                predictor,
                source.location,
                threshold=threshold,
                points_xy=chosen,
                most=most,
                layer=layer,
                encoder_layer=layer,
            )
        except (OSError, ValueError, TypeError) as error:
            failed += 1
            report_failure({"file": source.location, "error": str(error).removeprefix(f"{source.location}: ")}, console)
            continue
        _save(found.draw(f"{Path(source.location).name} · {model}"), target)
    raise typer.Exit(1 if failed else 0)


def _predictor(model: str, revision: str | None) -> type[Any]:
    from transformers_detr.hub.loading import holds_segmentation
    from transformers_detr.inference.detector import Detector, Segmenter

    return Segmenter if holds_segmentation(model, revision) else Detector


def _point(text: str) -> tuple[float, float]:
    """Read a point."""
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"--point {text}: must be X,Y, two numbers between 0 and 1") from error
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"--point {text}: must lie between 0 and 1")
    return x, y


def _targets(sources: list[Source], output: Path) -> list[Path]:
    """Where each sheet goes."""
    if _is_picture(output):
        if len(sources) > 1:
            raise ValueError(f"{len(sources)} pictures need a folder, --output names the file {output}")
        return [output] * len(sources)
    return [output / Path(source.picture).with_suffix("").with_name(_sheet_name(source)) for source in sources]


def _sheet_name(source: Source) -> str:
    return f"{Path(source.picture).stem}-explained.png"


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"} and not path.is_dir()


def _pictures(queries: str, limit: int | None) -> list[Any]:
    """The pictures of a dataset, the validation split if there is one, or of a folder; some as what reads them."""
    from transformers_detr.data.findings import DatasetError
    from transformers_detr.data.load import open_dataset

    try:
        dataset = open_dataset(queries, report=lambda *finding: None)
    except DatasetError:
        if not Path(queries).is_dir():
            raise
        return [source.location for source in gather_sources([queries], recursive=True)][:limit]
    records = dataset.splits.get("val") or next(iter(dataset.splits.values()))
    return [record.read_bytes or record.path for record in records[:limit]]


def _draw_queries(
    predictor: Detector, pictures: list[Any], model: str, output: Path, batch_size: int, console: Console
) -> None:
    from transformers_detr.explanation.query_boxes import draw_queries, query_boxes

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(pictures))
        try:
            images = (picture() if callable(picture) else picture for picture in pictures)
            boxes = query_boxes(predictor, images, batch_size=batch_size, progress=lambda: bar.advance(task))
            chart = draw_queries(boxes, model)
        except (OSError, ValueError, ImportError) as error:
            console.print(f"[red]Nothing was drawn.[/] {escape(str(error))}")
            raise typer.Exit(1) from error
    _save(chart, output if _is_picture(output) else output / "queries.png")


def _save(picture: Any, path: Path) -> None:
    """Write a picture, and say its name."""
    with atomic_file(path) as aside:
        picture.save(aside, quality=92)
    typer.echo(str(path))
