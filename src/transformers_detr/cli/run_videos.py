"""The run over videos of `detr detect`: progress, summary, exit status."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress


def run_videos(
    paths: list[Path],
    output: Path | None,
    load: Callable[[], Any],
    console: Console,
    *,
    settings: dict[str, Any],
    threshold: float,
    batch_size: int,
    save_video: bool,
    **options: Any,
) -> None:
    """Detect objects in videos, and end the command with its status; each of several has its own folder.

    Args:
        paths: The videos.
        output: Folder for the results.
        load: Loads the detector.
        console: For progress and errors.
        settings: Arguments of `run_settings`.
        threshold: Minimum score.
        batch_size: Frames per batch.
        save_video: Write the annotated copy.
        **options: Further arguments of `open_video_run`.

    Raises:
        typer.Exit: Always.
        typer.BadParameter: The arguments contradict each other.
    """
    if output is None:
        raise typer.BadParameter("a video needs a folder for results", param_hint="--output")
    with console.status("Loading"):
        from transformers_detr.cli.progress import PROGRESS_COLUMNS, show_progress
        from transformers_detr.inference.image_run import run_settings
        from transformers_detr.inference.predictions import PredictionsError
        from transformers_detr.inference.video_run import detect_in_video, open_video_run, write_annotated_video

        try:
            import transformers_detr.inference.video  # noqa: F401
        except ImportError as error:
            console.print(f"[red]{escape(str(error))}[/]")
            raise typer.Exit(1) from error
    settings = run_settings(**settings, threshold=threshold, batch_size=batch_size)
    detector, failed = load(), False
    for path in paths:
        try:
            folder = output / path.stem if len(paths) > 1 else output
            video = open_video_run(path, folder, settings, **options)
            with show_progress(video.run, video.frames, console, "frames") as (progress, pace):
                found = detect_in_video(detector, video, threshold=threshold, batch_size=batch_size, progress=progress)
            results = folder
            if save_video:
                with Progress(*PROGRESS_COLUMNS, console=console, transient=True) as bar:
                    task = bar.add_task("", total=video.all_frames)
                    results = write_annotated_video(video, partial(bar.advance, task))
            typer.echo(f"frames: {len(video.run.done)}, detections: {found}{pace}; results in {results}")
        except PredictionsError as error:
            raise typer.BadParameter(str(error), param_hint="--output") from error
        except (OSError, ImportError, ValueError) as error:
            console.print(f"[red]Failed.[/] {escape(str(error))}")
            failed = True
    raise typer.Exit(1 if failed else 0)
