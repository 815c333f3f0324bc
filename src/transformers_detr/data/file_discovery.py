"""Files: which are images, how large they are, which split a name speaks of."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from PIL import Image

from transformers_detr.data.findings import UnknownSplitError

T = TypeVar("T")

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".jp2"})

_ORIENTATION_TAG = 0x0112
_FIRST_SIDEWAYS = 5  # EXIF orientations 5 to 8 swap width and height

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "minival"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def image_files(folder: Path, nested: bool = False) -> list[Path]:
    """Image files of a folder in the order of their names; `nested` looks into its folders too."""
    paths = folder.rglob("*") if nested else folder.glob("*")
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)


def stored_size(encoded: bytes | Path) -> tuple[tuple[int, int], int]:
    """Height and width of an image as it is stored, and its EXIF orientation, 1 to 8; reads the header only.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not an image that Pillow knows.
    """
    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
    with source:
        try:
            image = Image.open(source)
        except Exception as error:  # decoders raise anything on damaged files
            raise ValueError(f"cannot be read as a picture: {error}") from error
        orientation = 1
        with suppress(Exception):  # so does a damaged EXIF block, of a picture that may be whole
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        return (image.height, image.width), orientation if orientation in range(1, 9) else 1


def turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The size of an upright image, given its size as stored and its EXIF orientation."""
    return size[::-1] if orientation >= _FIRST_SIDEWAYS else size


def upright_size(encoded: bytes | Path) -> tuple[int, int]:
    """Height and width of an image after its EXIF rotation; reads the header only.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not an image that Pillow knows.
    """
    return turned(*stored_size(encoded))


def split_name(text: str) -> str | None:
    """The split that a file or folder name speaks of: "instances_val2017" → "val"; None if it names none."""
    words = re.split(r"[^a-z]+", text.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def only_split(splits: Mapping[str, T], split: str | None, name: str) -> dict[str, T]:
    """Return the wanted split alone, or all if `split` is None.

    Raises:
        UnknownSplitError: If the dataset `name` has no such split.
    """
    if split is not None and split not in splits:
        raise UnknownSplitError(name, split, splits)
    return {key: value for key, value in splits.items() if split in (None, key)}
