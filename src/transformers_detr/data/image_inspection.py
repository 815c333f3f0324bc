"""Facts about image files: whether they can be decoded, size, rotation, digest of the pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from transformers_detr.data.file_discovery import stored_size, turned
from transformers_detr.data.image_lookup import is_file
from transformers_detr.data.records import ImageRecord
from transformers_detr.model.image_io_detr import load_image

_THREADS = 8


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image file.

    Attributes:
        problem: Code and message if the image is unusable; the other fields mean nothing then.
        stored: (height, width) as stored.
        orientation: EXIF orientation, 1 to 8; from 5 on, width and height are swapped.
        digest: Digest of the decoded pixels; empty if they were not decoded.
    """

    problem: tuple[str, str] | None = None
    stored: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: str = ""

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after the EXIF rotation."""
        return turned(self.stored, self.orientation)


def examine_images(
    records: Sequence[ImageRecord], decode: bool, progress: Callable[[int], None] | None = None
) -> list[ImageFacts]:
    """Examine the image of each record.

    Args:
        records: The records.
        decode: Decode the pixels; if False, only the header is read.
        progress: Called with the number of images done.
    """
    facts = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, fact in enumerate(pool.map(lambda record: _examine(record, decode), records), start=1):
            facts.append(fact)
            if progress is not None:
                progress(done)
    return facts


def _examine(record: ImageRecord, decode: bool) -> ImageFacts:
    try:
        if record.read_bytes is None and not is_file(record.path):
            return ImageFacts(("image-missing", _missing(record.path)))
        source = record.path if record.read_bytes is None and not decode else record.encoded()
        stored, orientation = stored_size(source)
        digest = ""
        if decode:
            image = load_image(source)
            digest = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()
    except (OSError, ValueError) as error:
        return ImageFacts(("image-unreadable", str(error)))
    return ImageFacts(None, stored, orientation, digest)


def _missing(path: Path) -> str:
    """Explain a missing file; a name that differs only in case is a common mistake."""
    folder = path.parent
    if not folder.is_dir():
        return f"no folder {folder}"
    twin = next((other.name for other in folder.iterdir() if other.name.lower() == path.name.lower()), None)
    return f"no such file; there is {twin}" if twin else "no such file"
