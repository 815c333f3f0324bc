"""What every reader gives: images with their objects, by split, with class names."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from transformers_detr.data.findings import DatasetError, UnknownSplitError
from transformers_detr.hub.published_checkpoints import NO_CLASS
from transformers_detr.model.image_io_detr import load_image


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One labeled object, as its file says it; nothing is clipped or dropped.

    Attributes:
        id: Id of the annotation.
        label: Class id, an index into the dataset's `class_names`.
        box_xywh_px: Upper left corner, width, height, in pixels of the upright image.
        area: In pixels; of the mask where there is one.
        iscrowd: One box around many objects, left out of training and forgiven in evaluation.
        segmentation: COCO's polygons or run-length code, or None.
        place: Where in its file, such as "line 3"; empty for COCO, where the id says it.
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
        height: Height of the upright image in pixels, as the annotations say.
        width: Width likewise.
        objects: Its objects, in the file's order.
        source: The file that the objects were read from.
        read_bytes: Reads the encoded image where it is not a file.
    """

    id: int
    path: Path
    height: int
    width: int
    objects: tuple[ObjectRecord, ...]
    source: Path
    read_bytes: Callable[[], bytes] | None = None

    def encoded(self) -> bytes:
        """The encoded image."""
        return self.path.read_bytes() if self.read_bytes is None else self.read_bytes()

    def load_image(self) -> Image.Image:
        """The image: RGB, upright as its EXIF orientation says.

        Raises:
            DatasetError: If the file is missing or cannot be decoded.
        """
        try:
            return load_image(self.path if self.read_bytes is None else self.read_bytes())
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.path}, image {self.id}: {error}") from error

    def coco_target(self) -> dict[str, Any]:
        """What `DetrImageProcessor` takes as annotations of this image."""
        return {"image_id": self.id, "annotations": [coco_annotation(self, item) for item in self.objects]}


@dataclass(frozen=True)
class DetectionDataset:
    """A dataset as read.

    Attributes:
        name: Folder, file or Hub name it came from.
        format: "coco", "voc", "yolo" or "datasets".
        class_names: Name of each class id.
        splits: Images by split; the usual names are "train", "val" and "test".
    """

    name: str
    format: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[ImageRecord, ...]] = field(repr=False)

    @property
    def id2label(self) -> dict[int, str]:
        """Class names as a model's configuration holds them."""
        return dict(enumerate(self.class_names))

    def split(self, name: str) -> tuple[ImageRecord, ...]:
        """The images of a split.

        Raises:
            UnknownSplitError: If there is no such split.
        """
        if name not in self.splits:
            raise UnknownSplitError(self.name, name, self.splits)
        return self.splits[name]

    def with_validation(self, share: float = 0.2, seed: int = 0) -> DetectionDataset:
        """Take a validation split out of the training split, unless there is one.

        An image's side depends on its name and the seed, not on the other images: adding images later moves
        hardly any of the old ones.

        Args:
            share: Part of the training images to take, between 0 and 1.
            seed: Names the choice.

        Raises:
            DatasetError: If there is no training split, or it has fewer than two images.
        """
        if "val" in self.splits:
            return self
        images = self.split("train")
        if len(images) < 2:
            raise DatasetError(f"{self.name}: {len(images)} image cannot be split into train and val")
        count = min(max(round(share * len(images)), 1), len(images) - 1)
        order = sorted(images, key=lambda image: zlib.crc32(f"{seed}/{image.path.name}".encode()))
        chosen = {image.id for image in order[:count]}
        return replace(
            self,
            splits={
                **self.splits,
                "train": tuple(image for image in images if image.id not in chosen),
                "val": tuple(image for image in images if image.id in chosen),
            },
        )

    def with_classes(self, class_names: Sequence[str]) -> DetectionDataset:
        """Number the classes as in a given list, such as a checkpoint's.

        Raises:
            DatasetError: If an object's class is not in the list.
        """
        ids = {name: label for label, name in enumerate(class_names)}
        used = {item.label for images in self.splits.values() for image in images for item in image.objects}
        missing = [self.class_names[label] for label in sorted(used) if self.class_names[label] not in ids]
        if missing:
            raise DatasetError(f"{self.name}: classes {missing} are not among {list(class_names)}")

        def renumbered(image: ImageRecord) -> ImageRecord:
            objects = (replace(item, label=ids[self.class_names[item.label]]) for item in image.objects)
            return replace(image, objects=tuple(objects))

        splits = {name: tuple(map(renumbered, images)) for name, images in self.splits.items()}
        return replace(self, class_names=tuple(class_names), splits=splits)

    def to_coco(self, split: str) -> dict[str, Any]:
        """A split in COCO's layout: `images`, `annotations`, `categories`; category ids are class ids."""
        images = self.split(split)
        return {
            "images": [
                {"id": image.id, "file_name": image.path.name, "height": image.height, "width": image.width}
                for image in images
            ],
            "annotations": [coco_annotation(image, item) for image in images for item in image.objects],
            "categories": [{"id": label, "name": name} for label, name in self.id2label.items() if name != NO_CLASS],
        }


def coco_annotation(image: ImageRecord, item: ObjectRecord) -> dict[str, Any]:
    """One object as COCO writes it."""
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
