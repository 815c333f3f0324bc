"""What can be wrong with a dataset: the kinds of fault, and one fault found in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """How bad a fault is: an error spoils training or its measurement, a warning may, a note informs."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Kind:
    """A kind of fault: how bad it is, what it means, and what a cleaned copy does about it."""

    severity: Severity
    meaning: str
    repair: str | None = None


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

KINDS: dict[str, Kind] = {
    # What a reader stumbles over
    "dataset-unreadable": Kind(_E, "nothing can be read"),
    "annotation-malformed": Kind(_E, "an entry lacks a field or holds the wrong type", "left out"),
    "annotations-missing": Kind(_E, "an image of a split's list without its annotation file", "left out"),
    "category-unknown": Kind(_E, "an object of a class that the dataset does not declare", "left out"),
    "category-repeated": Kind(_E, "two classes share an id", "first one kept"),
    "category-twin": Kind(_W, "two category ids with the same name", "merged"),
    "image-unlisted": Kind(_E, "an object of an image that the file does not list", "left out"),
    "image-id-repeated": Kind(_E, "two images share an id", "first one kept"),
    "box-in-pixels": Kind(_E, "a box in pixels where the format wants relative numbers", "read as pixels"),
    # Image files
    "image-missing": Kind(_E, "no such image file", "left out"),
    "image-unreadable": Kind(_E, "an image file that cannot be decoded", "left out"),
    "size-mismatch": Kind(_E, "an image of another size than the annotations say", "boxes scaled with the image"),
    "exif-unrotated": Kind(_E, "boxes drawn before the photograph's EXIF rotation", "boxes rotated"),
    "image-repeated": Kind(_W, "the same picture twice in a split", "first one kept"),
    "image-in-two-splits": Kind(_E, "the same picture in two splits", "kept for the measurement only"),
    "image-unannotated": Kind(_N, "image files that no annotation file lists"),
    # Objects
    "annotation-id-repeated": Kind(_E, "two objects share an id", "numbered anew"),
    "box-not-finite": Kind(_E, "a box with NaN or infinity", "left out"),
    "box-negative": Kind(_E, "a box of negative width or height", "left out"),
    "box-empty": Kind(_W, "a box of zero area", "left out"),
    "box-relative": Kind(_E, "a box in relative numbers where the format wants pixels", "scaled to pixels"),
    "box-outside": Kind(_E, "a box wholly outside its image", "left out"),
    "box-beyond-frame": Kind(_W, "a box that reaches beyond its image", "clipped"),
    "box-repeated": Kind(_W, "the same box of the same class twice in an image", "first one kept"),
    "area-mismatch": Kind(_W, "an area that is not positive, or larger than the box", "area of the box"),
    "segmentation-invalid": Kind(_W, "a mask that cannot be read or does not fit its image", "mask left out"),
    "segmentation-outside-box": Kind(_W, "a mask that reaches beyond its box"),
    "too-many-objects": Kind(_E, "an image with more objects than the model has queries"),
    # The whole
    "split-empty": Kind(_E, "a split without images, or without a single object"),
    "category-unused": Kind(_N, "a class without objects"),
    "category-not-trained": Kind(_W, "a class that is measured but does not occur in training"),
    "category-rare": Kind(_W, "a class with too few objects to be learned"),
    "category-similar": Kind(_W, "class names that differ in case, spaces or punctuation only"),
    "objects-tiny": Kind(_W, "most objects are smaller than a cell of the feature map"),
}
"""Every kind of fault by its code."""


@dataclass(frozen=True)
class Finding:
    """One fault in one place.

    Attributes:
        code: Key of `KINDS`.
        message: The rule and what came.
        file: The file to open: annotation file, label file or image.
        image_id: The image, where one is concerned.
        annotation_id: The object, where one is concerned.
        place: Where in the file, such as "line 3".
    """

    code: str
    message: str
    file: Path
    image_id: int | None = None
    annotation_id: int | None = None
    place: str = ""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return KINDS[self.code].severity

    def __str__(self) -> str:
        where = [str(self.file), self.place]
        if self.image_id is not None:
            where.append(f"image {self.image_id}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        return f"{', '.join(filter(None, where))}: {self.message} [{self.code}]"


class DatasetError(ValueError):
    """A dataset that cannot be read as it is; `detr check` lists everything that is wrong with it."""


class UnknownSplitError(DatasetError):
    """A dataset without the wanted split; `splits` names those that it has."""

    def __init__(self, dataset: str, split: str, splits: Iterable[str]):
        self.splits = tuple(splits)
        super().__init__(f"{dataset}: no split {split!r}; it has {', '.join(self.splits)}")


Reporter = Callable[[Finding], None]
"""What a reader does with a fault: raise, or note it and skip the entry."""


def raise_finding(finding: Finding) -> None:
    """Stop at the first error; warnings and notes pass.

    Raises:
        DatasetError: If the fault is an error.
    """
    if finding.severity is Severity.ERROR:
        raise DatasetError(str(finding))
