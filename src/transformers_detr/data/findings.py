"""Faults of datasets: the kinds, and one fault found in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """Severity of a fault: an error spoils training or evaluation, a warning may, a note informs."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its severity, its meaning, and how a corrected copy repairs it."""

    severity: Severity
    meaning: str
    repair: str | None = None


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

KINDS: dict[str, Kind] = {
    # Found by readers
    "dataset-unreadable": Kind(_E, "nothing can be read"),
    "annotation-malformed": Kind(_E, "an entry lacks a field or holds the wrong type", "left out"),
    "field-unreadable": Kind(_W, "a value that cannot be read, of a field that has a default", "default used"),
    "annotations-missing": Kind(_E, "an image of a split's list without its annotation file", "left out"),
    "annotations-unread": Kind(_W, "annotation files that no part of the dataset goes with"),
    "split-missing": Kind(_W, "a split that is declared, but not there"),
    "category-unknown": Kind(_E, "an object of a class that the dataset does not declare", "left out"),
    "category-repeated": Kind(_E, "two classes with the same id", "first one kept"),
    "category-twin": Kind(_W, "two category ids with the same name", "merged"),
    "image-unlisted": Kind(_E, "an object of an image that the file does not list", "left out"),
    "image-id-repeated": Kind(_E, "two images with the same id: nobody can assign their objects", "left out"),
    "image-listed-twice": Kind(_W, "several entries of one image file", "merged"),
    "box-in-pixels": Kind(_E, "a box in pixels where the format wants relative numbers", "read as pixels"),
    "box-convention": Kind(_W, "all boxes of a split in another convention than the format's", "converted"),
    # Image files
    "image-missing": Kind(_E, "no such image file", "left out"),
    "image-outside": Kind(_E, "an image outside the folder of the dataset", "left out"),
    "image-unreadable": Kind(_E, "an image file that cannot be decoded", "left out"),
    "size-misstated": Kind(_W, "a stated size that is wrong: the boxes fit the image", "size corrected"),
    "size-mismatch": Kind(_E, "boxes drawn in another size of the image", "boxes scaled with the image"),
    "size-ambiguous": Kind(_E, "a stated size that is not the image's; the boxes do not tell which one they mean"),
    "exif-unrotated": Kind(_E, "boxes drawn before the EXIF rotation of the image", "boxes rotated"),
    "image-repeated": Kind(_W, "the same image twice in a split", "left out if it adds no object"),
    "image-in-two-splits": Kind(_E, "the same image in two splits", "kept for evaluation only if no object is lost"),
    "image-unannotated": Kind(_N, "image files that no annotation file lists"),
    # Objects
    "annotation-id-repeated": Kind(_E, "two objects with the same id", "renumbered"),
    "box-not-finite": Kind(_E, "a box with NaN or infinity", "left out"),
    "box-negative": Kind(_E, "a box of negative width or height", "left out"),
    "box-empty": Kind(_W, "a box of zero area", "left out"),
    "box-relative": Kind(_E, "a box in relative numbers where the format wants pixels", "scaled to pixels"),
    "box-below-pixel": Kind(_W, "a box within one pixel at the origin, among boxes in pixels", "left out"),
    "box-outside": Kind(_E, "a box completely outside its image", "left out"),
    "box-beyond-frame": Kind(_W, "a box that reaches beyond its image", "clipped"),
    "box-repeated": Kind(_W, "the same box of the same class twice in an image", "first one kept"),
    "area-mismatch": Kind(_W, "an area that is not positive, or larger than the box", "area of the box"),
    "segmentation-invalid": Kind(_W, "a mask that cannot be read or does not fit its image", "mask left out"),
    "segmentation-outside-box": Kind(_W, "a mask that reaches beyond its box"),
    "too-many-objects": Kind(_W, "an image with more objects than the model has queries; `detr train` adds queries"),
    # The whole dataset
    "split-empty": Kind(_E, "a split without images or objects"),
    "category-unused": Kind(_N, "a class without objects"),
    "category-not-trained": Kind(_W, "a class that occurs in evaluation but not in training"),
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
        message: The rule and the value.
        file: The file to open: annotation file, label file or image.
        image_id: The image, if the fault concerns one.
        annotation_id: The object, if the fault concerns one.
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
        """Severity of its kind."""
        return KINDS[self.code].severity

    def __str__(self) -> str:
        where = ["" if self.message.startswith(str(self.file)) else str(self.file), self.place]
        if self.image_id is not None:
            where.append(f"image {self.image_id}")
        if self.annotation_id is not None:
            where.append(f"annotation {self.annotation_id}")
        place = ", ".join(filter(None, where))
        return f"{place}: {self.message} [{self.code}]" if place else f"{self.message} [{self.code}]"


class DatasetError(ValueError):
    """A dataset with a fault that stops reading; `check_dataset` and `detr check` list all faults."""


class UnknownSplitError(DatasetError):
    """A dataset without the requested split; `splits` names the splits it has."""

    def __init__(self, dataset: str, split: str, splits: Iterable[str]):
        self.splits = tuple(splits)
        super().__init__(f"{dataset}: no split {split!r}; it has {', '.join(self.splits)}")


Reporter = Callable[[Finding], None]
"""Called by a reader with each fault: raises, or returns to skip the entry."""


def raise_finding(finding: Finding) -> None:
    """Raise at an error; log a warning; let notes pass.

    Raises:
        DatasetError: If the fault is an error.
    """
    if finding.severity is Severity.ERROR:
        raise DatasetError(str(finding))
    if finding.severity is Severity.WARNING:
        logging.getLogger(__name__).warning("%s", finding)
