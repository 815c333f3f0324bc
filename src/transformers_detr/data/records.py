"""Records of labeled images and their objects, as every reader returns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from transformers_detr.data.findings import DatasetError
from transformers_detr.model.image_io_detr import Pixels, load_image, load_pixels

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One labeled object with the values of its file; nothing is clipped or dropped.

    Attributes:
        id: Id of the annotation.
        label: Class id, an index into the dataset's `class_names`.
        box_xywh_px: Upper left corner, width, height, in pixels of the upright image.
        area: Area in pixels; of the mask, if there is one.
        iscrowd: One box around many objects, ignored in training and evaluation.
        segmentation: COCO's polygons or run-length code, or None.
        place: Place in its file, such as "line 3"; empty for COCO, where the id is enough.
    """

    id: int
    label: int
    box_xywh_px: tuple[float, float, float, float]
    area: float
    iscrowd: bool = False
    segmentation: Any = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its objects.

    Attributes:
        id: Id of the image.
        path: The image file; for a row of a Hub dataset a name for messages.
        height: Height of the upright image in pixels, as annotated.
        width: Width of the upright image in pixels, as annotated.
        objects: Its objects, in the order of the file.
        source: The file that the objects were read from.
        read_bytes: Reads the encoded image if it is not a file.
    """

    id: int
    path: Path
    height: int
    width: int
    objects: tuple[ObjectRecord, ...]
    source: Path
    read_bytes: Callable[[], bytes] | None = None

    def encoded(self) -> bytes:
        """Read the encoded image."""
        return self.path.read_bytes() if self.read_bytes is None else self.read_bytes()

    def load_image(self) -> Image.Image:
        """Decode the image to look at: RGB, upright by its EXIF orientation.

        Raises:
            DatasetError: If the file is missing or cannot be decoded.
        """
        return self._decoded(load_image)

    def load_pixels(self, num_channels: int) -> Pixels:
        """Decode the image for a model, with the channels that it takes, upright by its EXIF orientation.

        Raises:
            DatasetError: If the file is missing or cannot be decoded, or has other channels.
        """
        return self._decoded(partial(load_pixels, num_channels=num_channels))

    def _decoded(self, decode: Callable[[Path | bytes], Decoded]) -> Decoded:
        try:
            return decode(self.path if self.read_bytes is None else self.read_bytes())
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.path}, image {self.id}: {error}") from error

    def coco_target(self) -> dict[str, Any]:
        """Return the annotations of this image for `DetrImageProcessor`."""
        return {"image_id": self.id, "annotations": [coco_annotation(self, item) for item in self.objects]}


class ReadDataset(NamedTuple):
    """Classes and images that a reader returns.

    Attributes:
        class_names: Name of each class id.
        splits: Images by split; the usual names are "train", "val" and "test".
        files: Files that were read, besides the sources of the images.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[ImageRecord, ...]]
    files: tuple[Path, ...] = ()


def coco_annotation(image: ImageRecord, item: ObjectRecord) -> dict[str, Any]:
    """Return one object as a COCO annotation."""
    annotation: dict[str, Any] = {
        "id": item.id,
        "image_id": image.id,
        "category_id": item.label,
        "bbox": list(item.box_xywh_px),
        "area": item.area,
        "iscrowd": int(item.iscrowd),
    }
    if item.segmentation is not None:
        annotation["segmentation"] = item.segmentation
    return annotation
