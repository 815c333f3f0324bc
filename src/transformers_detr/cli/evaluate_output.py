"""Output of `detr evaluate` on the terminal: progress bars and the table of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from transformers_detr.evaluation.evaluation_result import EvaluationResult


class _Pace(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """Return the text of a moment."""
        return Text("" if task.speed is None else f"{task.speed:.1f} images/s")


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar per stage; yield the function that advances them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Pace(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        loading = bars.add_task("Loading", total=None)
        tasks = {}

        def advance(stage: str, done: int, total: int) -> None:
            bars.update(loading, visible=False)
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield advance
        bars.update(loading, visible=False)


def show_result(result: EvaluationResult) -> None:
    """Print the headline numbers, with the meaning of each of COCO's."""
    from transformers_detr.evaluation.average_precision import MEANINGS

    columns = {"boxes": result.summary} | ({"masks": result.masks} if result.masks else {})
    table = Table("", *columns, "", title_justify="left")
    for name, meaning in zip(result.summary, MEANINGS, strict=True):
        table.add_row(name, *[_number(summary[name]) for summary in columns.values()], meaning)
    Console(highlight=False).print(table)
    typer.echo(
        f"{result.data.split}: {len(result.data.images)} images, {len(result.unreadable)} of them not predicted; "
        f"at most {result.evaluation.boxes.max_detections[-1]} detections per image and class"
    )
    if result.panoptic:
        for group in ("all", "things", "stuff"):
            score = getattr(result.panoptic, group)
            values = f"PQ {_number(score.pq)}, SQ {_number(score.sq)}, RQ {_number(score.rq)}"
            typer.echo(f"{group}: {values} over {score.classes} classes")
    for padding, seen in (result.padding_differences or {}).items():
        typer.echo(
            f"{padding} padding: alone and in the batch, logits differ by up to {seen.logits:.2g}, boxes by "
            f"{seen.boxes:.2g} of the image ({seen.padded} of {seen.images} images were padded)"
        )


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"
