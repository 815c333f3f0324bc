"""Resumable writer of a predictions file, for one or several processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch.distributed

from transformers_detr.atomic_io import atomic_file
from transformers_detr.inference.predictions import (
    Header,
    PredictionsError,
    Record,
    class_names,
    model_digest,
    read_header,
    read_records,
    record_lines,
    to_line,
)

PREDICTIONS = "predictions.jsonl"


class PredictionWriter:
    """Writer of `predictions.jsonl` in a folder.

    With `uris`, one process writes the records in the order of the images. Without, each process writes a part file
    in any order, and `finish` joins the parts. Each call of `append` writes whole lines; a line that was cut off by a
    crash is dropped on resume.

    Attributes:
        folder: The output folder.
        path: The predictions file.
        done: Ids of the images that have a record.
        header: The header of the file.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        uris: Sequence[str] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        """Open a folder, which is created if missing.

        Args:
            folder: The output folder.
            settings: What the records depend on, `model` (its name) among it. A run is resumed with the same settings.
            uris: Paths or URLs of all images, in the order of the records; None for records in any order.
            resume: Continue after the records that are there.
            overwrite: Replace the records that are there.

        Raises:
            PredictionsError: The folder holds records and neither `resume` nor `overwrite` is given, they are damaged
                or come from other settings or images, or the folder is a file.
        """
        if folder.exists() and not folder.is_dir():
            raise PredictionsError(f"{folder} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / PREDICTIONS
        own = json.loads(json.dumps(dict(settings)))
        self.header = Header(model=own.pop("model", None), settings=own)
        self._resumed = False
        files = [] if overwrite else [path for path in self._files() if _has_records(path)]
        if files and not resume:
            raise PredictionsError(
                f"{folder} already holds predictions; resume with --resume, start over with --overwrite, or name "
                "another folder"
            )
        for path in files:
            _drop_cut_off_line(path)
            self._compare(path)
        self.done = self._read_ids(files, uris)
        wait_for_all()  # no process writes before all have read
        if process_number()[0] == 0:
            for path in self._files():
                if path not in files:
                    path.unlink()
        wait_for_all()
        self._target = self.path if uris is not None else folder / f"predictions.part{process_number()[0]}.jsonl"

    def set_model(self, model: Any) -> None:
        """Set the model that makes the records; call it before the first `append`.

        Raises:
            PredictionsError: The records that are there were made with other weights.
        """
        digest = model_digest(model)
        if self._resumed and self.header.model_digest != digest:
            raise PredictionsError(
                f"{self.folder} was started with other weights or another configuration of {self.header.model}; "
                "start over with --overwrite, or name another folder"
            )
        self.header = replace(self.header, model_digest=digest, class_names=class_names(model))

    def append(self, *records: Record) -> None:
        """Write records; they are in the file when this returns. An image that has a record is skipped."""
        new = [record for record in records if record["id"] not in self.done]
        lines = [to_line(record) for record in new]
        if not self._target.exists() or not self._target.stat().st_size:
            lines.insert(0, to_line(self.header.to_json()))
        with self._target.open("ab") as file:
            file.write("".join(lines).encode("utf-8"))
        self.done.update(record["id"] for record in new)

    def finish(self, ids: Sequence[int]) -> None:
        """Join the part files of all processes in the order of `ids`, each image once.

        Every process must call it; process 0 writes.

        Raises:
            PredictionsError: An image has no record.
        """
        own = record_lines(self._files())
        rank, world = process_number()
        gathered = [own] * world
        if world > 1:
            torch.distributed.gather_object(own, gathered if rank == 0 else None)
        if rank == 0:
            line_of = {number: line for lines in gathered for number, line in lines.items()}
            missing = [number for number in ids if number not in line_of]
            if missing:
                raise PredictionsError(f"{self.folder}: {len(missing)} images have no record, such as {missing[0]}")
            header = to_line(self.header.to_json())
            self.write_file(PREDICTIONS, lambda file: file.writelines([header, *(line_of[number] for number in ids)]))
            for path in self._files():
                if path != self.path:
                    path.unlink()
        wait_for_all()

    def records(self) -> Iterator[Record]:
        """Read the records of the predictions file."""
        return read_records(self.path) if self.path.exists() else iter(())

    def write_file(self, name: str, write: Callable[[IO[str]], Any]) -> Path:
        """Write a file of the folder atomically.

        Args:
            name: Its name.
            write: Called with the open file.

        Returns:
            Its path.
        """
        path = self.folder / name
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            write(file)
        return path

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("predictions*.jsonl"))

    def _compare(self, path: Path) -> None:
        """Compare the header of a file with this run; take its digest and class names."""
        stored = read_header(path)
        if stored is None:
            raise PredictionsError(f"{path} has no header; start over with --overwrite")
        before = {"model": stored.model, **stored.settings}
        now = {"model": self.header.model, **self.header.settings}
        changed = [
            f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
            for name in dict.fromkeys([*now, *before])
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise PredictionsError(f"{self.folder} was started with other settings: {'; '.join(changed)}")
        self.header, self._resumed = stored, True

    def _read_ids(self, files: Sequence[Path], uris: Sequence[str] | None) -> set[int]:
        try:
            records = [(record["id"], record.get("uri")) for path in files for record in read_records(path)]
        except PredictionsError as error:
            raise PredictionsError(f"damaged: {error}; start over with --overwrite") from error
        for number, (_, uri) in enumerate(records if uris is not None else ()):
            expected = uris[number] if uris is not None and number < len(uris) else None
            if uri != expected:
                raise PredictionsError(
                    f"{self.path}: record {number + 1} is about {uri}, but image {number + 1} of this run is "
                    f"{expected}; resume with the same inputs"
                )
        return {number for number, _ in records}


def process_number() -> tuple[int, int]:
    """Return the number of this process and the number of processes: (0, 1) without `torch.distributed`."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if process_number()[1] > 1:
        torch.distributed.barrier()


def _has_records(path: Path) -> bool:
    """Tell whether a file has a whole line after its header."""
    with path.open("rb") as file:
        return bool(file.readline()) and file.readline().endswith(b"\n")


def _drop_cut_off_line(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
