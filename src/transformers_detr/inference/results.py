"""Base of the results of one image: class names, source, drawing and saving."""

from __future__ import annotations

import difflib
import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from transformers_detr.atomic_io import atomic_file
from transformers_detr.model.image_io_detr import URL_SCHEMES, load_image
from transformers_detr.visualization.annotate import upright_image

SAVE_FORMATS = {
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Pillow's format for each suffix that `save` accepts."""

_SAVE_QUALITY = 95
_CLASSES_IN_REPR = 6


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ImageResult(ABC):
    """Base of `Detections` and `Segments`.

    Attributes:
        image: Upright RGB image, kept with `keep_images=True`.
        source: Path, URL, bytes, image, array or tensor that the detector was given. It is not copied: `draw`, `save`
            and notebooks open it again.
        id2label: Class names of the model by class id, if known.
    """

    image: Image.Image | None = None
    source: Any = None
    id2label: Mapping[int, str] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _size(self) -> tuple[int, int]: ...

    @abstractmethod
    def _classes(self) -> tuple[list[int], list[str]]:
        """Return the class id and the class name of each object."""

    @abstractmethod
    def _draw_on(self, image: Image.Image) -> Image.Image: ...

    def __repr__(self) -> str:
        noun = self._noun if len(self) == 1 else f"{self._noun}s"
        counts = [f"{count} {name}" for name, count in self.counts().items()]
        if len(counts) > _CLASSES_IN_REPR:
            counts[_CLASSES_IN_REPR - 1 :] = [f"{len(counts) - _CLASSES_IN_REPR + 1} more classes"]
        name = _source_name(self.source)
        where = f" in {name}" if name else ""
        listed = f": {', '.join(counts)}" if counts else ""
        return f"{type(self).__name__}({len(self)} {noun}{where}{listed})"

    @property
    def _noun(self) -> str:
        return "object"

    def counts(self) -> dict[str, int]:
        """Return the number of objects of each class name, the most frequent first."""
        return dict(Counter(self._classes()[1]).most_common())

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """Draw the results with class names and scores on a copy of the image.

        Args:
            image: The upright image. By default the kept image; else the source is opened again.

        Returns:
            An RGB image of the same size.

        Raises:
            ValueError: There is no image, it cannot be read, or it has another size than the results.
            OSError: The file or URL cannot be read.
        """
        if image is None:
            image = self.image
        if image is None and self.source is not None:
            image = load_image(self.source)
        return self._draw_on(upright_image(image, None, self._size()))

    def save(self, path: str | Path, image: Image.Image | None = None) -> None:
        """Save the annotated image, with an atomic write.

        Args:
            path: File to write. Its suffix gives the format: .jpg, .png, .webp, .tif or .bmp.
            image: The upright image, as for `draw`.

        Raises:
            ValueError: The suffix is none of these, or as for `draw`.
            OSError: The source cannot be read, or the file cannot be written.
        """
        path = Path(path)
        image_format = SAVE_FORMATS.get(path.suffix.lower())
        if image_format is None:
            raise ValueError(
                f"cannot save {path}: no image format has the suffix {path.suffix!r};"
                f" use one of {', '.join(SAVE_FORMATS)}"
            )
        annotated = self.draw(image)
        options = {"quality": _SAVE_QUALITY} if image_format in {"JPEG", "WEBP"} else {}
        with atomic_file(path) as partial:
            annotated.save(partial, format=image_format, **options)

    def _repr_png_(self) -> bytes | None:
        """Return the annotated image for notebooks, or None if the source cannot be opened again."""
        try:
            annotated = self.draw()
        except (ValueError, OSError, TypeError):
            return None
        buffer = io.BytesIO()
        annotated.save(buffer, format="PNG")
        return buffer.getvalue()

    def _mask_of_classes(self, classes: str | int | Iterable[str | int]) -> np.ndarray[Any, Any]:
        """Return `(N,)` bool: whether each object has one of the classes, given by name or id.

        Raises:
            ValueError: The model has no such class.
            TypeError: A class is neither a name nor an id.
        """
        wanted = [classes] if isinstance(classes, str | int | np.integer) else list(classes)
        for entry in wanted:
            self._check_class(entry)
        return np.array([i in wanted or name in wanted for i, name in zip(*self._classes(), strict=True)], dtype=bool)

    def _check_class(self, entry: str | int) -> None:
        if isinstance(entry, bool) or not isinstance(entry, str | int | np.integer):
            raise TypeError(f"classes must be class names or class ids, got {entry!r}")
        if self.id2label is None or entry in self.id2label or entry in self.id2label.values():
            return
        if not isinstance(entry, str):
            raise ValueError(
                f"the model has no class id {entry}; its ids are {min(self.id2label)}-{max(self.id2label)}"
            )
        by_lower = {name.lower(): name for name in self.id2label.values()}
        nearest = difflib.get_close_matches(entry.lower(), by_lower, n=1)
        hint = f" Did you mean {by_lower[nearest[0]]!r}?" if nearest else ""
        raise ValueError(f"the model has no class {entry!r}.{hint}")


def _source_name(source: Any) -> str:
    """Return the file name of a path or URL, or "" for other sources."""
    if isinstance(source, str) and source.startswith(URL_SCHEMES):
        return "" if source.startswith("data:") else PurePath(unquote(urlsplit(source).path)).name
    return PurePath(source).name if isinstance(source, str | PurePath) else ""


def positions(key: Any, length: int) -> np.ndarray[Any, Any]:
    """Return the indices that a slice, boolean mask or array of integers selects.

    Raises:
        IndexError: An index is out of range, or a mask has another length.
        TypeError: The key is none of these.
    """
    if not isinstance(key, slice):
        key = np.asarray(key)
        if key.size == 0 and key.dtype != bool:
            key = key.astype(np.intp)
        if key.ndim != 1 or key.dtype.kind not in "biu":
            raise TypeError("an index must be an integer, a slice, a boolean mask or a sequence of integers")
    return np.arange(length)[key]
