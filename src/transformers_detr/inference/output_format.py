"""Output format of a run over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.predictions import Record
from transformers_detr.inference.sources import Source


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """Record and files that a run writes for the results of one kind of predictor.

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


def save_image(image: Any, output: Path, name: str) -> str:
    """Write an image into the output folder and return its name there."""
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)
    return name
