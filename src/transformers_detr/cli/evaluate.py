"""`detr evaluate`: COCO's numbers of a model, or of a predictions file, on a labeled dataset."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from transformers_detr.atomic_io import atomic_file
from transformers_detr.cli.image_run import BackendName, Device, DtypeName, PrecisionName, Revision, exported_options

if TYPE_CHECKING:
    from transformers_detr.evaluation.evaluation_data import EvaluationData
    from transformers_detr.evaluation.scoring import Evaluation


class Padding(StrEnum):
    """What padding does to an image in a batch."""

    exact = "exact"
    original = "original"


def _number_or_queries(text: str) -> str:
    """Refuse, before anything is predicted, a limit that scoring cannot use: COCO's second count is 10."""
    if text == "queries" or (text.isdecimal() and int(text) > 10):
        return text
    raise typer.BadParameter(f"{text!r} is neither 'queries' nor a number above 10")


def evaluate(
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="DATASET", help="Folder or file (COCO, VOC, YOLO …), or Hub name.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Name on the Hub, or a folder.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score this file instead: predictions.jsonl, or COCO results (.json)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for predictions and report.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Part of the dataset.", show_default="val, or the only one")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at once.")] = 4,
    padding: Annotated[
        Padding, typer.Option(help="exact: the batch size does not matter; original: as the original does it.")
    ] = Padding.exact,
    check_padding: Annotated[
        bool, typer.Option("--check-padding", help="Compare each image alone and in its batch, under both paddings.")
    ] = False,
    max_detections: Annotated[
        str,
        typer.Option(
            metavar="N|queries",
            help="How many detections count per image and class, best first.",
            callback=_number_or_queries,
        ),
    ] = "100",
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Score for the confusion matrix.", show_default="that of the best F1"),
    ] = None,
    panoptic: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="COCO's panoptic JSON.",
            show_default="the one beside the instances file",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N images.")] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", min=16, help="Shorter side.", show_default="as the model says")
    ] = None,
    device: Device = None,
    dtype: DtypeName = None,
    backend: BackendName = None,
    precision: PrecisionName = None,
    revision: Revision = None,
    data_name: Annotated[str | None, typer.Option(metavar="TEXT", help="Dataset's name for the model card.")] = None,
    data_revision: Annotated[str | None, typer.Option(metavar="TEXT", help="Its version, likewise.")] = None,
    coco_results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the detections as COCO results, with the class ids used.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that DIR holds.")] = False,
) -> None:
    """Measure average precision, and panoptic quality, on a labeled dataset.

    Every query counts, boxes keep their fractions, and no score threshold is applied. With --output, DIR
    receives predictions.jsonl (written as the run goes on), metrics.json, per_class.csv, report.html and more.
    Several processes share the work with `torchrun --nproc-per-node N --no-python detr evaluate …`.

    An image that cannot be read is named and counts as one in which nothing was found; the exit status is
    then 1.
    """
    if (model is None) == (predictions is None):
        raise typer.BadParameter("give either --model or --predictions")
    if model is not None and output is None:
        raise typer.BadParameter("a model's predictions need a folder", param_hint="--output")
    if backend is not None and check_padding:
        raise typer.BadParameter("an exported model knows one padding only", param_hint="--check-padding")
    exported = exported_options(backend, precision)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with console.status("Loading"):
            from transformers_detr.cli import evaluation_run as run
            from transformers_detr.evaluation.average_precision import MEANINGS
            from transformers_detr.evaluation.distributed import own_share
            from transformers_detr.evaluation.evaluation_data import class_names, select_data
            from transformers_detr.evaluation.evaluation_report import can_draw_charts
            from transformers_detr.evaluation.padding_check import padding_differences
            from transformers_detr.evaluation.predictions import to_coco_results
            from transformers_detr.evaluation.scoring import evaluate_predictions
    except ImportError as error:
        console.print(f"[red]{escape(str(error))}.[/] Evaluation needs: pip install 'transformers-detr\\[evaluate]'")
        raise typer.Exit(1) from error
    with run.processes() as rank:
        console.quiet = rank > 0
        try:
            if predictions is not None:
                folder = predictions.parent
                chosen, found, settings = run.read_run(predictions, data, split, limit)
            else:
                folder = Path(str(output))
                inference = run.Inference(str(model), revision, dtype, device, size, batch_size, padding, **exported)
                with console.status(f"Loading {escape(inference.model)}"):
                    detector, processor = inference.load()
                chosen = select_data(data, split, limit, class_names(detector))
                batches = inference.batches(detector, chosen)
                with _progress("Predicting", sum(map(len, own_share(batches))), console) as progress:
                    found, settings = inference.predict(detector, processor, chosen, folder, resume, progress)
                if check_padding and rank == 0:
                    with _progress("Comparing paddings", len(chosen.images), console) as progress:
                        differences = padding_differences(detector, processor, batches, progress)
                    settings["padding_check"] = {name: asdict(value) for name, value in differences.items()}
            if rank:
                return
            quality, note = run.measure_panoptic(chosen, found, folder, panoptic)
            detection_limit = _detection_limit(max_detections, settings)
            evaluation = evaluate_predictions(chosen.ground_truth, found, detection_limit, quality)
        except (OSError, ValueError) as error:
            console.print(f"[red]Nothing was measured.[/] {escape(str(error))}")
            raise typer.Exit(1) from error
    settings["command"] = shlex.join(["detr", *sys.argv[1:]])
    _show(evaluation, settings, MEANINGS)
    try:
        if coco_results is not None:
            with atomic_file(coco_results) as aside:
                aside.write_text(json.dumps(list(to_coco_results(found))), encoding="utf-8")
        if output is not None:
            _write(output, evaluation, settings, chosen, threshold, data_name, data_revision)
            if not can_draw_charts():
                console.print("The report has no charts: pip install 'transformers-detr\\[evaluate]'")
            typer.echo(f"report: {output / 'report.html'}")
    except OSError as error:
        console.print(f"[red]Measured, but not written.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    if note is not None:
        console.print(f"[yellow]note:[/] {escape(note)}")
    for reason in evaluation.unreadable.values():
        console.print(f"[yellow]not predicted:[/] {escape(reason)}")
    raise typer.Exit(1 if evaluation.unreadable else 0)


def _detection_limit(text: str, settings: dict[str, Any]) -> int:
    """Read `--max-detections`; fewer than COCO's 100 queries keep COCO's limit, which they cannot reach."""
    if text == "queries":
        if "num_queries" not in settings:
            raise ValueError("--max-detections queries: the predictions file does not say how many there were")
        return max(int(settings["num_queries"]), 100)
    return int(text)


class _Pace(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """The text of a moment."""
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")


@contextmanager
def _progress(what: str, total: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar; gives the function that advances it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Pace(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _show(evaluation: Evaluation, settings: dict[str, Any], meanings: Sequence[str]) -> None:
    """Show the headline numbers, with what each of COCO's means."""
    columns = {"boxes": evaluation.boxes} | ({"masks": evaluation.masks} if evaluation.masks else {})
    table = Table("", *columns, "", title_justify="left")
    for name, meaning in zip(evaluation.boxes.summary, meanings, strict=True):
        numbers = [_percent(scores.summary[name]) for scores in columns.values()]
        table.add_row(name, *numbers, meaning)
    Console(highlight=False).print(table)
    images = len(evaluation.ground_truth["images"])
    typer.echo(
        f"{settings['split']}: {images} images, {len(evaluation.unreadable)} of them not predicted; "
        f"at most {evaluation.boxes.max_detections[-1]} detections per image and class"
    )
    if evaluation.panoptic:
        for group in ("all", "things", "stuff"):
            score = getattr(evaluation.panoptic, group)
            values = f"PQ {_percent(score.pq)}, SQ {_percent(score.sq)}, RQ {_percent(score.rq)}"
            typer.echo(f"{group}: {values} over {score.classes} classes")
    for padding, seen in settings.get("padding_check", {}).items():
        typer.echo(
            f"{padding} padding: alone and in the batch, logits differ by up to {seen['logits']:.2g}, boxes by "
            f"{seen['boxes']:.2g} of the image ({seen['padded']} of {seen['images']} images were padded)"
        )


def _percent(value: float) -> str:
    return "–" if value != value else f"{100 * value:.1f}"


def published_name(data: str) -> str:
    """A dataset's name for others: a folder or file without where it lies here."""
    return Path(data).resolve().name if Path(data).exists() else data


def _write(
    folder: Path,
    evaluation: Evaluation,
    settings: dict[str, Any],
    chosen: EvaluationData,
    threshold: float | None,
    data_name: str | None,
    data_revision: str | None,
) -> None:
    """Write the report, and the numbers as a model card takes them."""
    from transformers_detr.evaluation.evaluation_report import write_report
    from transformers_detr.evaluation.model_index import Evidence, eval_results, model_index
    from transformers_detr.evaluation.published_comparison import compare_with_published

    model = str(settings.get("model", "predictions"))
    images = {image.id: image for image in chosen.images}
    shown = {name: value for name, value in settings.items() if name != "class_names" and value is not None}
    write_report(
        folder,
        evaluation,
        title=f"{model} on {chosen.dataset.name} ({chosen.split})",
        settings=shown,
        threshold=threshold,
        comparison=compare_with_published(evaluation, model, str(settings.get("padding", "exact"))),
        load_image=lambda image_id: images[image_id].load_image(),
    )
    evidence = Evidence(
        dataset_name=data_name or published_name(chosen.dataset.name),
        dataset_type=published_name(chosen.dataset.name),
        dataset_split=chosen.split,
        dataset_revision=data_revision,
        command=settings["command"],
    )
    index = model_index(Path(model).name, eval_results(evaluation, evidence))
    with atomic_file(folder / "model_index.json") as aside:
        aside.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
