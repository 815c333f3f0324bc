"""Predict many images into a folder: annotated images, one record per image, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers_detr import __version__
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.predictions import Record
from transformers_detr.inference.predictor import Predictor, window_length
from transformers_detr.inference.sources import Source
from transformers_detr.prefetch import prefetch_map

ANNOTATED = "annotated"


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """What is kept of the results of one kind of predictor.

    Attributes:
        found: Entry of each record that lists what was found: "detections" or "segments".
        folders: Folders of images, in the output folder, that `record` fills.
        record: Turns a result into its part of the record, after writing its images to the output folder, if any.
        finish: Writes the files that summarize a finished run.
    """

    found: str
    folders: tuple[str, ...]
    record: Callable[[Source, Any, Path | None], Record]
    finish: Callable[[PredictionWriter], None]


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


def predict_image(
    predictor: Predictor[Any], output_format: OutputFormat, source: Source, threshold: float | None, batch_size: int
) -> Record:
    """Return the record of one image, writing nothing."""
    (record,) = _records(output_format, [source], predictor, 0, threshold, batch_size, None, False)
    return record


def predict_to_folder(
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


def save_image(image: Any, output: Path, name: str) -> str:
    """Write an image into the output folder and return its name there."""
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)
    return name
