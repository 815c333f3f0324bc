"""The output folder of a run: one JSON line per image, in input order, so that a stopped run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from transformers_detr.atomic_io import atomic_file

RECORDS = "predictions.jsonl"
SETTINGS = "run.json"


class RunFolderError(ValueError):
    """The output folder does not allow what was asked."""


class RunFolder:
    """Holds the records of a run, and appends to them.

    Records are dicts with at least `file`, the location of the picture. The n-th line belongs to the n-th
    picture. A line that was cut off by a sudden end is dropped when the run goes on.

    Args:
        folder: The output folder; made if it is not there.
        settings: What the records depend on. A run can only be resumed with the same settings.
        locations: The pictures of the run, in order.
        resume: Go on after the records that are there, if there are any.
        overwrite: Start anew even if there are records.

    Raises:
        RunFolderError: The folder holds records and neither `resume` nor `overwrite` is given, or they come
            from other settings or pictures, or it is a file.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        locations: Sequence[str],
        *,
        resume: bool,
        overwrite: bool,
    ):
        self.folder = folder
        self.done = 0
        """Number of pictures that have a record."""
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder} is a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
        if not overwrite and self.records_file.exists() and self.records_file.stat().st_size:
            if not resume:
                raise RunFolderError(
                    f"{folder} already holds predictions; resume with --resume, start over with --overwrite,"
                    " or name another folder"
                )
            self._compare_settings(settings)
            self._drop_cut_off_line()
            self._compare_locations(locations)
            return
        self.records_file.unlink(missing_ok=True)  # first, or a sudden end here would join them to new settings
        self.write_aside(SETTINGS, lambda file: file.write(json.dumps(settings, indent=2) + "\n"))
        self.records_file.write_bytes(b"")

    @property
    def records_file(self) -> Path:
        """The JSON Lines file."""
        return self.folder / RECORDS

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the records back."""
        with self.records_file.open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def append(self, record: dict[str, Any]) -> None:
        """Write the next picture's record; it is in the file when this returns."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self.records_file.open("ab") as file:
            file.write(line.encode("utf-8"))
        self.done += 1

    def write_aside(self, name: str, write: Callable[[IO[str]], Any]) -> Path:
        """Write a file under another name first, so that it is either whole or not there.

        Args:
            name: Its name in the folder.
            write: Called with the open file.

        Returns:
            Its path.
        """
        path = self.folder / name
        with atomic_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            write(file)
        return path

    def _compare_settings(self, settings: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} cannot be read ({error}); start over with --overwrite") from error
        differing = [
            f"{name} was {earlier.get(name)!r} and is now {value!r}"
            for name, value in settings.items()
            if earlier.get(name) != value
        ]
        if differing:
            raise RunFolderError(f"{self.folder} was begun with other settings: {'; '.join(differing)}")

    def _drop_cut_off_line(self) -> None:
        content = self.records_file.read_bytes()
        whole = content.rfind(b"\n") + 1
        with self.records_file.open("r+b") as file:
            file.truncate(whole)

    def _compare_locations(self, locations: Sequence[str]) -> None:
        try:
            recorded = [record["file"] for record in self.records()]
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.records_file} is damaged ({error}); start over with --overwrite") from error
        for number, file in enumerate(recorded):
            expected = locations[number] if number < len(locations) else None
            if file != expected:
                raise RunFolderError(
                    f"{self.records_file}, line {number + 1} is about {file}, but image {number + 1} of this run"
                    f" is {expected}; resume with the same inputs"
                )
        self.done = len(recorded)


def write_array(entries: Iterable[Any], file: IO[str]) -> None:
    """Write a JSON array, one entry per line."""
    separator = "[\n"
    for entry in entries:
        file.write(separator + json.dumps(entry))
        separator = ",\n"
    file.write("\n]\n" if separator == ",\n" else "[]\n")
