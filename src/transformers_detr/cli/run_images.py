"""The run over images that `detr detect` and `detr segment` share: options, progress, summary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from transformers_detr.cli.options import load_predictor
from transformers_detr.inference.sources import gather_sources


def run_images(
    predictor: str,
    options: dict[str, Any],
    show: Callable[[dict[str, Any]], None],
    inputs: list[str],
    output: Path | None,
    *,
    model: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    threshold: float | None,
    batch_size: int,
    recursive: bool,
    save_images: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Predict the images that the inputs name, and end the command with its status.

    Args:
        predictor: "Detector" or "Segmenter".
        options: Further arguments of its `from_pretrained`.
        show: Shows the record of one image.
        inputs: Paths, folders, patterns and URLs.
        output: Folder for the results; without one, a single image is shown.
        model: See the options of the command, as all below.
        revision: The model's revision.
        device: Where to run.
        dtype: What to compute in.
        threshold: Minimum score.
        batch_size: Images per batch.
        recursive: Search subfolders.
        save_images: Write annotated images.
        resume: Resume the run in the folder.
        overwrite: Replace it.

    Raises:
        typer.Exit: Always, unless one image is shown.
        typer.BadParameter: The arguments contradict each other.
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    own = [] if output is None else [output / name for name in ("annotated", "panoptic", "semantic")]
    try:
        sources = gather_sources(inputs, recursive, leave_out=own)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    if output is None and len(sources) > 1:
        raise typer.BadParameter(f"{len(sources)} images need a folder for results", param_hint="--output")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    load = partial(load_predictor, predictor, options, model, device, dtype, revision, console)
    with console.status("Loading"):
        from transformers_detr.cli.progress import report_failure, show_progress
        from transformers_detr.inference.image_run import complete_run, format_of, predict_image, run_settings
        from transformers_detr.inference.prediction_writer import PredictionWriter
        from transformers_detr.inference.predictions import PredictionsError
    output_format = format_of(options.get("task"))
    if output is None:
        record = predict_image(load(), output_format, sources[0], threshold, batch_size)
        if "error" in record:
            report_failure(record, console)
            raise typer.Exit(1)
        show(record)
        return
    settings = run_settings(model, revision, dtype, threshold, batch_size, **options, images=save_images)
    try:
        run = PredictionWriter(output, settings, [s.location for s in sources], resume=resume, overwrite=overwrite)
        loaded = load() if len(run.done) < len(sources) else None
        with show_progress(run, len(sources), console) as (progress, pace):
            done = complete_run(
                loaded,
                output_format,
                sources,
                run,
                threshold=threshold,
                batch_size=batch_size,
                save_images=save_images,
                progress=progress,
            )
    except PredictionsError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    if done.images == 1 and not done.failed:
        show(next(run.records()))
    typer.echo(
        f"images: {done.images}, {output_format.found}: {done.found}, failed: {done.failed}{pace}; "
        f"results in {done.folder}"
    )
    raise typer.Exit(1 if done.failed else 0)
