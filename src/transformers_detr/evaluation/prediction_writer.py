"""Predictions of a run on disk: one part per process while it runs, a single file once it is complete.

Each line is written whole, and a batch's lines at once, so an interrupted run loses at most the batch at hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed

from transformers_detr.atomic_io import atomic_file
from transformers_detr.evaluation.distributed import process_number, wait_for_all
from transformers_detr.evaluation.predictions import ImagePrediction, read_predictions, to_json

COMPLETE = "predictions.jsonl"
"""Name of the file that holds the predictions for all images."""


class PredictionLog:
    """The predictions file of a folder, written by one or several processes and resumable.

    Attributes:
        path: The complete file; it exists once `finish` has been called.
        done: Ids of the images that are predicted already.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool = False):
        """Open the log of a run.

        Args:
            folder: Where the file goes; made if it is missing.
            settings: Whatever the predictions depend on, as JSON can hold it. Stored in the file's first line.
            resume: Go on with what is there; otherwise nothing may be there.

        Raises:
            ValueError: The folder holds predictions and `resume` is False, or they were made with other settings.
        """
        self.path = folder / COMPLETE
        self._settings = json.loads(json.dumps(dict(settings)))
        folder.mkdir(parents=True, exist_ok=True)
        files = self._files()
        if files and not resume:
            raise ValueError(
                f"{folder} holds predictions ({files[0].name}); go on with --resume, or name another folder"
            )
        for path in files:
            _cut_torn_line(path)
            self._check_settings(path)
        self.done = frozenset(p.image_id for path in files for p in read_predictions(path))
        wait_for_all()  # nobody writes before everybody has read
        self._part = folder / f"predictions.part{process_number()[0]}.jsonl"

    def append(self, predictions: Iterable[ImagePrediction]) -> None:
        """Write the predictions of a batch; those of images that are there already are left out."""
        lines = [json.dumps(to_json(p)) + "\n" for p in predictions if p.image_id not in self.done]
        if not self._part.exists() or not self._part.stat().st_size:
            lines.insert(0, json.dumps({"settings": self._settings}) + "\n")
        with self._part.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def finish(self, image_ids: Sequence[int]) -> None:
        """Put the parts of all processes together, in the order of `image_ids`, each image once.

        Every process must call it; process 0 writes.

        Raises:
            ValueError: An image has no prediction.
        """
        own = _lines(self._files())
        rank, world = process_number()
        gathered = [own] * world
        if world > 1:
            torch.distributed.gather_object(own, gathered if rank == 0 else None)
        if rank == 0:
            self._write_whole(gathered, image_ids)
        wait_for_all()

    def _write_whole(self, gathered: Sequence[Mapping[int, str]], image_ids: Sequence[int]) -> None:
        line_of = {image_id: line for lines in gathered for image_id, line in lines.items()}
        missing = [image_id for image_id in image_ids if image_id not in line_of]
        if missing:
            raise ValueError(f"{self.path.parent}: no prediction for {len(missing)} images, such as {missing[0]}")
        with atomic_file(self.path) as aside, aside.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"settings": self._settings}) + "\n")
            file.writelines(line_of[image_id] for image_id in image_ids)
        for path in self._files():
            if path != self.path:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.path.parent.glob("predictions*.jsonl"))

    def _check_settings(self, path: Path) -> None:
        stored = read_settings(path)
        changed = [
            f"{name} was {stored.get(name)!r}, is {self._settings.get(name)!r}"
            for name in sorted(stored.keys() | self._settings.keys())
            if stored.get(name) != self._settings.get(name)
        ]
        if stored and changed:
            raise ValueError(f"{path} was made with other settings: {'; '.join(changed)}")


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a predictions file's first line; empty if it has none."""
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    settings: dict[str, Any] = json.loads(line).get("settings", {}) if line.startswith("{") else {}
    return settings


def _lines(paths: Iterable[Path]) -> dict[int, str]:
    """The line of each image."""
    lines: dict[int, str] = {}
    for path in paths:
        with path.open(encoding="utf-8") as file:
            lines |= {entry["image_id"]: line for line in file if "image_id" in (entry := json.loads(line))}
    return lines


def _cut_torn_line(path: Path) -> None:
    """Remove what an interruption left of a line at the end."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
