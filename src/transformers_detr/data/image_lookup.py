"""Lookup of images by the names that annotation files give them."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePath
from urllib.parse import unquote

from transformers_detr.data.file_discovery import files_below, is_image, split_name


class ImageLookup:
    """Images of a dataset folder, found by their names even where a path is of another machine.

    A name is compared regardless of case, Unicode form, percent escapes and the kind of slashes; what precedes the base
    name decides only between several images of one base name. The folder is listed at the first search.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str, source: Path, split: str | None = None) -> Path:
        """Return the image that an annotation file names.

        In this order: the path as it is, from the annotation file's folder or `root`; the file below `root` of this
        base name; the image of this base name with another suffix, or with one if the name has none. Of several, the
        one whose folders agree best with the name, then with the split, then with those of the annotation file, then
        one in a folder "images". An image in the folder of another split is not taken, unless the name has that folder.

        Args:
            name: Base name or path, of any system.
            source: The annotation file.
            split: Its split, if its name or folder says so.

        Raises:
            LookupError: If there is no such image, or several; the message names them.
        """
        for text in dict.fromkeys((name, name.replace("\\", "/"), unquote(name))):
            for folder in (source.parent, self.root):
                if text and is_file(folder / text):
                    return folder / text
        parts = _parts(name)
        if not parts:
            raise LookupError("no image is named")
        for index, key in ((self._by_name, parts[-1]), (self._by_stem, stem_key(parts[-1]))):
            found = self._best(index.get(key, []), parts, name, source, split)
            if len(found) > 1:
                raise LookupError(f"{name} may be {' or '.join(map(str, found[:3]))}")
            if found:
                return found[0]
        raise LookupError(f"no image {name} in {self.root} or below")

    def _best(self, paths: list[Path], parts: list[str], name: str, source: Path, split: str | None) -> list[Path]:
        """Return the images that agree best with a name, its parts, its annotation file and its split."""
        scores: dict[Path, tuple[int, ...]] = {}
        for path in paths:
            own = _parts(str(path.relative_to(self.root)))
            named_folders = _shared(reversed(parts[:-1]), reversed(own[:-1]))
            own_split = folder_split(path, self.root)
            if not named_folders and split and own_split and split != own_split:
                continue
            near = _shared(path.parent.parts, source.parent.parts)
            in_images = any("image" in folder for folder in own[:-1])
            scores[path] = (named_folders, path.name == PurePath(name).name, own_split == split, near, in_images)
        best = max(scores.values(), default=())
        return [path for path, score in scores.items() if score == best]

    @cached_property
    def _images(self) -> list[Path]:
        return [path for path in files_below(self.root) if is_image(path.name)]

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped((_parts(path.name)[-1], path) for path in self._images)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _grouped((stem_key(path.name), path) for path in self._images)


def folder_split(path: Path, root: Path) -> str | None:
    """Return the split that the nearest of a file's folders below `root` stands for; None without one."""
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    return next(filter(None, map(split_name, reversed(folders))), None)


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False for one that no system can hold."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a null byte
        return False


def _parts(name: str) -> list[str]:
    """Split a path of any system into comparable parts."""
    plain = unicodedata.normalize("NFC", unquote(name).replace("\\", "/")).casefold()
    return [part for part in plain.split("/") if part not in ("", ".")]


def stem_key(name: str) -> str:
    """Return the comparable base name of a path without an image's suffix."""
    base = (_parts(name) or [""])[-1]
    return base.rpartition(".")[0] if is_image(base) else base


def _shared(one: Iterable[str], other: Iterable[str]) -> int:
    """Count the leading items that two iterables share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _grouped(pairs: Iterator[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for key, path in pairs:
        groups[key].append(path)
    return groups
