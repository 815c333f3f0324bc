"""Sources: files, folders, patterns and URLs → the images to work on, in a fixed order."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

URL_PREFIXES = ("http://", "https://")
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Suffixes of image files, for folders of images and for datasets."""
VIDEO_ENDINGS = frozenset({".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})


@dataclass(frozen=True)
class Source:
    """One image to work on.

    Attributes:
        location: Its path or URL.
        output_name: Path of its annotated copy in the output folder; unique.
        image_id: Its id in COCO files: the number that its file name is, as COCO does it, if all names are
            different numbers; else its place in the order, from 1.
    """

    location: str
    output_name: str
    image_id: int


def gather_sources(inputs: Sequence[str], recursive: bool, leave_out: Sequence[Path] = ()) -> list[Source]:
    """List the images that files, folders, glob patterns and URLs name.

    Folders give the files with an image suffix, sorted by name, numbers by their value. Files that are
    named outright are taken whatever their ending. Nothing is taken twice.

    Args:
        inputs: Paths, patterns and URLs.
        recursive: Also search subfolders of folders.
        leave_out: Folders that are never searched.

    Returns:
        The sources, in the order of `inputs`.

    Raises:
        FileNotFoundError: An input names nothing, or none of them an image.
    """
    names: dict[str, str] = {}
    for entry in inputs:
        for location, name in _expand(entry, recursive, leave_out):
            names.setdefault(location, name)
    if not names:
        deeper = "" if recursive else " (folders within folders are searched with --recursive)"
        raise FileNotFoundError(f"no images in {', '.join(inputs)}{deeper}")
    output_names = _unique_names(list(names.values()))
    ids = _image_ids(list(names.values()))
    return [Source(*parts) for parts in zip(names, output_names, ids, strict=True)]


def gather_videos(inputs: Sequence[str]) -> list[Path]:
    """List the videos that files and glob patterns name, by their ending.

    Args:
        inputs: Paths, patterns and URLs.

    Returns:
        The videos, none twice; empty if the inputs name something else.

    Raises:
        ValueError: They name both.
    """
    paths = [Path(location) for entry in inputs if _may_be_video(entry) for location, _ in _expand(entry, False, ())]
    if paths and not all(map(_may_be_video, inputs)):
        other = next(entry for entry in inputs if not _may_be_video(entry))
        raise ValueError(f"images and videos need separate runs, got {other} and {paths[0]}")
    return list(dict.fromkeys(paths))


def _may_be_video(entry: str) -> bool:
    return not entry.startswith(URL_PREFIXES) and Path(entry).suffix.lower() in VIDEO_ENDINGS


def _expand(entry: str, recursive: bool, leave_out: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield (location, name) of each image of one input; the name is relative to what was named."""
    if entry.startswith(URL_PREFIXES):
        yield entry, _url_name(entry)
        return
    path = Path(entry).expanduser()
    if not path.exists():
        matches = sorted(glob.glob(str(path), recursive=True), key=_natural)  # noqa: PTH207, patterns may be absolute
        if not matches:
            raise FileNotFoundError(f"{entry}: no such file or folder")
        for match in matches:
            yield from _expand(match, recursive, leave_out)
    elif path.is_dir():
        for file in _images_in(path, recursive, leave_out):
            yield str(file), file.relative_to(path).as_posix()
    else:
        yield str(path), path.name


def _images_in(folder: Path, recursive: bool, leave_out: Sequence[Path]) -> list[Path]:
    """List the visible images of a folder, by their suffix."""
    files = [
        path
        for path in folder.glob("**/*" if recursive else "*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not any(path.resolve().is_relative_to(other.resolve()) for other in leave_out)
    ]
    return sorted(files, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key under which `9.jpg` comes before `10.jpg`."""
    pieces = re.split(r"(\d+)", text.lower())
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], text


def _url_name(url: str) -> str:
    name = re.sub(r"[^\w.-]+", "_", PurePosixPath(unquote(urlsplit(url).path)).name)
    return name.lstrip(".") or "image"


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return a unique name for each annotated image: JPEG stays JPEG, the rest becomes PNG."""
    taken: set[str] = set()
    unique = []
    for name in names:
        path = PurePosixPath(name)
        ending = path.suffix if path.suffix.lower() in {".jpg", ".jpeg", ".png"} else ".png"
        candidate, number = path.with_suffix(ending), 1
        while candidate.as_posix().casefold() in taken:
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}{ending}")
        taken.add(candidate.as_posix().casefold())
        unique.append(candidate.as_posix())
    return unique


def _image_ids(names: Sequence[str]) -> list[int]:
    stems = [PurePosixPath(name).stem for name in names]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))
