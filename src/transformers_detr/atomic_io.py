"""Files and folders that are whole or not there, however a process ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that is complete or not there: fill the one given, which is renamed at the end.

    Raises:
        FileExistsError: If `folder` exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; name a folder that does not")
    with _emptied(folder.with_name(f".{folder.name}.partial")) as partial:
        yield partial
        partial.replace(folder)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Put files into a folder that may hold others: fill the one given, from which they are moved at the end.

    Files of the same names are replaced. `folder` is made if it is missing.
    """
    with _emptied(folder / ".partial") as partial:
        yield partial
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file that is whole or not there: write the one given, which is renamed at the end.

    A file of the same name is replaced. The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _emptied(partial: Path) -> Iterator[Path]:
    """Create an empty folder, without the leftovers of a killed run, and remove it at the end."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
