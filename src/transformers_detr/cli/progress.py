"""Progress bars and messages of long runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from transformers_detr.inference.prediction_writer import PredictionWriter

PROGRESS_COLUMNS = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())


class Pace:
    """Records per second of a run.

    Args:
        noun: What there is a record of.
    """

    def __init__(self, noun: str):
        self.noun, self.count, self.start = noun, 0, time.perf_counter()

    def __str__(self) -> str:
        if not self.count:
            return ""
        return f", {self.count / (time.perf_counter() - self.start):.2f} {self.noun}/s"


@contextmanager
def show_progress(
    run: PredictionWriter, total: int | None, console: Console, noun: str = "images"
) -> Iterator[tuple[Callable[[dict[str, Any]], None], Pace]]:
    """Show a progress bar and failures; end the command if it is stopped or the disk or memory does not suffice.

    Args:
        run: The run that is being written.
        total: Number of records of the whole run; None if unknown.
        console: Where the bar and the failures are shown.
        noun: What there is a record of.

    Yields:
        The function to call with each record, and the pace.

    Raises:
        typer.Exit: The run was stopped; it can be resumed.
    """
    pace = Pace(noun)
    with Progress(*PROGRESS_COLUMNS, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, completed=len(run.done))

        def advance(record: dict[str, Any]) -> None:
            pace.count += 1
            progress.advance(task)
            if "error" in record:
                report_failure(record, progress.console)

        try:
            yield advance, pace
        except KeyboardInterrupt:
            _stop(run, total, noun, "", 130, console)
        except (OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            _stop(run, total, noun, f": {str(error).splitlines()[0]}", 1, console)


def report_failure(record: dict[str, Any], console: Console) -> None:
    """Say why an image has no results."""
    console.print(f"[red]skipped[/] {escape(record['uri'])}: {escape(record['error'])}")


def _stop(run: PredictionWriter, total: int | None, noun: str, reason: str, status: int, console: Console) -> NoReturn:
    whole = "" if total is None else f" of {total}"
    console.print(f"[red]Stopped[/] after {len(run.done)}{whole} {noun}{escape(reason)}; resume with --resume")
    raise typer.Exit(status)
