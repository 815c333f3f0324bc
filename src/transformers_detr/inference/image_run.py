"""Predict many images into a folder: annotated images, one record per image, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers_detr import __version__
from transformers_detr.inference.detection_output import DETECTIONS
from transformers_detr.inference.detector import SegmentationTask, Segmenter
from transformers_detr.inference.output_format import OutputFormat, save_image
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.predictions import Record
from transformers_detr.inference.predictor import Predictor, window_length
from transformers_detr.inference.segment_output import SEGMENTS
from transformers_detr.inference.sources import Source, gather_sources
from transformers_detr.prefetch import prefetch_map

ANNOTATED = "annotated"


@dataclass(frozen=True)
class RunSummary:
    """Counts of a finished run.

    Attributes:
        folder: The output folder.
        images: Images of the run.
        found: Detections or segments in all of them.
        failed: Images that could not be read or predicted.
    """

    folder: Path
    images: int
    found: int
    failed: int


def predict_to_folder(
    predictor: Predictor[Any],
    inputs: str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    threshold: float | None = None,
    batch_size: int = 4,
    recursive: bool = False,
    save_images: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Record], None] = lambda record: None,
) -> RunSummary:
    """Predict images and write the results to a folder, as `detr detect` and `detr segment` do.

    The folder receives `predictions.jsonl` (one record per image, written during the run), `annotated/`, and the
    files of the task, such as `coco_results.json`.

    Args:
        predictor: A `Detector` or `Segmenter`.
        inputs: Paths, folders, patterns and URLs of images.
        folder: Folder to write to; created if missing.
        threshold: Minimum score; None uses the predictor's default.
        batch_size: Images per batch.
        recursive: Search subfolders.
        save_images: Write annotated images.
        resume: Resume the run in the folder.
        overwrite: Replace the results in the folder.
        progress: Called with each record after it is written.

    Returns:
        The counts. An image that failed has a record with `error`.

    Raises:
        FileNotFoundError: An input does not exist or contains no image.
        PredictionsError: The folder holds results and neither `resume` nor `overwrite` is given, or these results
            were made with other settings, images or weights.
        OSError: The disk is full or a file cannot be written. The run can be resumed.
    """
    folder, given = Path(folder), [inputs] if isinstance(inputs, (str, Path)) else inputs
    task = predictor.task if isinstance(predictor, Segmenter) else None
    output_format = format_of(task)
    own = [folder / name for name in (ANNOTATED, *output_format.folders)]
    sources = gather_sources([str(one) for one in given], recursive, leave_out=own)
    name, dtype = predictor.model.config._name_or_path, str(predictor.model.dtype)
    settings = run_settings(name, None, dtype, threshold, batch_size, task=task, images=save_images)
    locations = [source.location for source in sources]
    run = PredictionWriter(folder, settings, locations, resume=resume, overwrite=overwrite)
    return complete_run(
        predictor,
        output_format,
        sources,
        run,
        threshold=threshold,
        batch_size=batch_size,
        save_images=save_images,
        progress=progress,
    )


def format_of(task: SegmentationTask | None) -> OutputFormat:
    """Return the output format of a segmentation task, or of detections (None)."""
    return DETECTIONS if task is None else SEGMENTS[task]


def predict_image(
    predictor: Predictor[Any], output_format: OutputFormat, source: Source, threshold: float | None, batch_size: int
) -> Record:
    """Return the record of one image, writing nothing."""
    (record,) = _records(output_format, [source], predictor, 0, threshold, batch_size, None, False)
    return record


def complete_run(
    predictor: Predictor[Any] | None,
    output_format: OutputFormat,
    sources: Sequence[Source],
    run: PredictionWriter,
    *,
    threshold: float | None = None,
    batch_size: int = 4,
    save_images: bool = True,
    progress: Callable[[Record], None] = lambda record: None,
) -> RunSummary:
    """Predict the images of a run that have no record yet, and write its summary files.

    Args:
        predictor: The predictor; None if every image has a record.
        output_format: What is kept of each result.
        sources: The images, in the order of the run.
        run: The output folder; see `PredictionWriter` for resuming.
        threshold: Minimum score; None uses the predictor's default.
        batch_size: Images per batch.
        save_images: Write annotated images.
        progress: Called with each record after it is written.

    Returns:
        The counts. An image that failed has a record with `error`.

    Raises:
        PredictionsError: The records that are there were made with other weights.
        OSError: The disk is full or a file cannot be written. The run can be resumed.
        MemoryError: Memory does not suffice. The run can be resumed.
    """
    if predictor is not None:
        run.set_model(predictor.model)
        for record in _records(
            output_format, sources, predictor, len(run.done), threshold, batch_size, run.folder, save_images
        ):
            run.append(record)
            progress(record)
    output_format.finish(run)
    images = failed = found = 0
    for record in run.records():
        images += 1
        failed += "error" in record
        found += len(record.get(output_format.found, ()))
    return RunSummary(run.folder, images, found, failed)


def run_settings(
    model: str, revision: str | None, dtype: str | None, threshold: float | None, batch_size: int, **more: Any
) -> dict[str, Any]:
    """Return the settings on which the records of a run depend."""
    settings = {"version": __version__, "model": model, "revision": revision, "dtype": dtype}
    return {**settings, "threshold": threshold, "batch_size": batch_size, **more}


def _records(
    output_format: OutputFormat,
    sources: Sequence[Source],
    predictor: Predictor[Any],
    done: int,
    threshold: float | None,
    batch_size: int,
    output: Path | None,
    save_images: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the record of each source after the first `done`, having saved its images under `output`.

    Work begins at a window's start, so that the same images share a batch whether or not the run was
    stopped in between, and the numbers are the same to the last digit.
    """
    begin = done - done % window_length(batch_size)
    outcomes = predictor.stream_with_errors(
        [source.location for source in sources[begin:]],
        threshold=threshold,
        batch_size=batch_size,
        keep_images=save_images,
    )
    new = islice(zip(sources[begin:], outcomes, strict=True), done - begin, None)
    return prefetch_map(lambda pair: _record(output_format, *pair, output), new, depth=1, threads=1)


def _record(output_format: OutputFormat, source: Source, outcome: Any, output: Path | None) -> dict[str, Any]:
    record: dict[str, Any] = {"id": source.image_id, "uri": source.location}
    if isinstance(outcome, Exception):
        return {**record, "error": str(outcome).removeprefix(f"{source.location}: ")}
    record["height"], record["width"] = outcome.image_size
    record |= output_format.record(source, outcome, output)
    if output is not None and outcome.image is not None:
        record["annotated"] = save_image(outcome.draw(), output, f"{ANNOTATED}/{source.output_name}")
    return record
