"""Image files, their sizes, and the splits that names of files and folders stand for."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from PIL import Image

from transformers_detr.data.findings import UnknownSplitError
from transformers_detr.inference.sources import IMAGE_SUFFIXES
from transformers_detr.model.image_io_detr import NPY_MAGIC, load_image

T = TypeVar("T")

_ORIENTATION_TAG = 0x0112
_FIRST_SIDEWAYS = 5  # EXIF orientations 5 to 8 swap width and height

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "minival"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def image_files(folder: Path, nested: bool = False) -> list[Path]:
    """List the image files of a folder by name; `nested` includes its subfolders."""
    paths = folder.rglob("*") if nested else folder.glob("*")
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)


def stored_size(encoded: bytes | Path) -> tuple[tuple[int, int], int]:
    """Read the stored height and width of an image, and its EXIF orientation (1 to 8), from its header.

    Raises:
        OSError: If there is no such file.
        ValueError: If Pillow cannot identify the image, or the array of an `.npy` file is no image.
    """
    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
    with source:
        if source.read(len(NPY_MAGIC)) == NPY_MAGIC:
            array = load_image(encoded)
            return (array.height, array.width), 1
        try:
            image = Image.open(source)
        except Exception as error:  # decoders raise anything on damaged files
            raise ValueError(f"cannot be read as an image: {error}") from error
        orientation = 1
        with suppress(Exception):  # a damaged EXIF block can raise anything too, in an intact image
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        return (image.height, image.width), orientation if orientation in range(1, 9) else 1


def turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the size of an upright image, given its stored size and EXIF orientation."""
    return size[::-1] if orientation >= _FIRST_SIDEWAYS else size


def upright_size(encoded: bytes | Path) -> tuple[int, int]:
    """Read the height and width of an image after its EXIF rotation, from its header.

    Raises:
        OSError: If there is no such file.
        ValueError: If Pillow cannot identify the image.
    """
    return turned(*stored_size(encoded))


def split_name(text: str) -> str | None:
    """Return the split that a file or folder name contains: "instances_val2017" → "val"; None without one."""
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
