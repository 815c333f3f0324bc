"""Files of a dataset: images and their sizes, text of any encoding, splits that names stand for."""

from __future__ import annotations

import codecs
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from transformers_detr.data.findings import DatasetError, UnknownSplitError
from transformers_detr.inference.sources import IMAGE_SUFFIXES
from transformers_detr.model.image_io_detr import LFS_POINTER, NPY_MAGIC, load_image

T = TypeVar("T")

ORIENTATION_TAG = 0x0112
_FIRST_SIDEWAYS = 5  # EXIF orientations 5 to 8 swap width and height

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "minival"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def files_below(folder: Path) -> Iterator[Path]:
    """List the files of a folder and its subfolders by name, through symbolic links, each folder once.

    What macOS adds to archives (`__MACOSX`, `._name`) is passed over.
    """
    seen = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        subfolders[:] = sorted(set(subfolders) - {"__MACOSX"}) if real not in seen else []
        if real not in seen:
            yield from (Path(place, name) for name in sorted(names) if not name.startswith("._"))
        seen.add(real)


def image_files(folder: Path, nested: bool = False) -> list[Path]:
    """List the image files of a folder by name; `nested` includes its subfolders."""
    paths = files_below(folder) if nested else folder.glob("*")
    return sorted(path for path in paths if is_image(path.name) and not path.name.startswith("._"))


def is_image(name: str) -> bool:
    """Return whether a file name ends like an image's."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def read_text(path: Path) -> str:
    """Read text of any encoding: by its byte order mark, else UTF-8, else Windows-1252 (Latin-1).

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is a Git LFS pointer.
    """
    return decode_text(path.read_bytes())


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, without spaces around them.

    Raises:
        DatasetError: If the file cannot be read.
    """
    try:
        return [line.strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def decode_text(encoded: bytes) -> str:
    """Decode text as `read_text` does.

    Raises:
        ValueError: If it is a Git LFS pointer.
    """
    if encoded.startswith(LFS_POINTER):
        raise ValueError("a Git LFS pointer, not the file itself: run 'git lfs pull'")
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if encoded.startswith(mark):
            return encoded.decode(encoding, errors="replace")
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError:
        return encoded.decode("cp1252", errors="replace")


def stored_size(encoded: bytes | Path) -> tuple[tuple[int, int], int]:
    """Read the stored height and width of an image, and its EXIF orientation (1 to 8), from its header.

    Raises:
        OSError: If there is no such file.
        ValueError: If Pillow cannot identify the image, or the array of an `.npy` file is no image.
    """
    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
    with source:
        head = source.read(len(LFS_POINTER))
        if head.startswith(NPY_MAGIC):
            array = load_image(encoded)
            return (array.height, array.width), 1
        if head == LFS_POINTER:
            raise ValueError("a Git LFS pointer, not the image itself: run 'git lfs pull'")
        if not head:
            raise ValueError("an empty file")
        try:
            image = Image.open(source)
        except UnidentifiedImageError as error:  # its message shows a memory address
            raise ValueError("cannot be read as an image: unknown or damaged format") from error
        except Exception as error:  # decoders raise anything on damaged files
            raise ValueError(f"cannot be read as an image: {error}") from error
        orientation = 1
        with suppress(Exception):  # a damaged EXIF block can raise anything too, in an intact image
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
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
