"""DetectionDataset: labeled images by split, loaded from any known format."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from transformers_detr.data.annotation_survey import unread_files
from transformers_detr.data.findings import DatasetError, Finding, Reporter, UnknownSplitError, raise_finding
from transformers_detr.data.readers import READERS, read_dataset
from transformers_detr.data.records import ImageRecord, coco_annotation
from transformers_detr.hub.class_names import NO_CLASS


@dataclass(frozen=True)
class DetectionDataset:
    """A dataset of labeled images.

    Attributes:
        name: Folder, file or Hub name it came from.
        format: "coco", "voc", "yolo" or "datasets".
        class_names: Name of each class id.
        splits: Images by split; the usual names are "train", "val" and "test".
        findings: Faults that `load` reported and got past, so that `check_dataset` lists them too.
    """

    name: str
    format: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[ImageRecord, ...]] = field(repr=False)
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @classmethod
    def load(
        cls,
        source: str | Path,
        split: str | None = None,
        *,
        keep_category_ids: bool = False,
        report: Reporter = raise_finding,
    ) -> DetectionDataset:
        """Load a dataset of labeled images in any known format.

        `transformers_detr.data.readers.READERS` lists the formats. Splits are found by the names of files and folders.
        A dataset without splits is "train".

        Args:
            source: Folder, file or Hub name.
            split: The only split to keep: "train", "val" or "test"; None keeps all. Class ids can depend on the
                splits that are read, if their files declare different classes; see `with_classes`.
            keep_category_ids: COCO only: use the category ids as class ids, as the published checkpoints do.
            report: Called with each fault. If it returns, the entry is skipped and the fault is kept in `findings`.
                The default raises at the first error and logs warnings.

        Returns:
            The dataset.

        Raises:
            DatasetError: If nothing is there, the format is unknown, the split is missing, or a fault is found; the
                message names the file, image and annotation.
        """
        name = str(source)
        findings: list[Finding] = []

        def report_and_keep(finding: Finding) -> None:
            report(finding)
            findings.append(finding)

        format_, read = read_dataset(source, split, report_and_keep, keep_category_ids)
        if split is None and Path(source).is_dir():
            sources = {record.source for records in read.splits.values() for record in records}
            known = sources | {finding.file for finding in findings} | set(read.files)
            for finding in unread_files(Path(source), READERS[format_].label, known):
                report_and_keep(finding)
        return cls(name, format_, read.class_names, read.splits, tuple(findings))

    @property
    def id2label(self) -> dict[int, str]:
        """Class names by class id, as in a model's configuration."""
        return dict(enumerate(self.class_names))

    def split(self, name: str) -> DatasetSplit:
        """Return the images of a split.

        Raises:
            UnknownSplitError: If there is no such split.
        """
        if name not in self.splits:
            raise UnknownSplitError(self.name, name, self.splits)
        return DatasetSplit(self, name)

    def with_validation(self, share: float = 0.2, seed: int = 0) -> DetectionDataset:
        """Take a validation split out of the training split, unless there is one.

        The split of an image depends on its name and the seed, not on the other images. Images added later therefore
        move hardly any of the old ones.

        Args:
            share: Part of the training images to take, between 0 and 1.
            seed: Seed of the choice.

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
        """Return a split in COCO's layout: `images`, `annotations`, `categories`; category ids are class ids."""
        images = self.split(split)
        return {
            "images": [
                {"id": image.id, "file_name": image.path.name, "height": image.height, "width": image.width}
                for image in images
            ],
            "annotations": [coco_annotation(image, item) for image in images for item in image.objects],
            "categories": [{"id": label, "name": name} for label, name in self.id2label.items() if name != NO_CLASS],
        }


class DatasetSplit(tuple[ImageRecord, ...]):
    """The images of one split: a tuple that knows the dataset it belongs to.

    Attributes:
        dataset: The whole dataset.
        name: Name of the split.
    """

    dataset: DetectionDataset
    name: str

    def __new__(cls, dataset: DetectionDataset, name: str) -> Self:
        """Take the records of a split."""
        split = super().__new__(cls, dataset.splits[name])
        split.dataset, split.name = dataset, name
        return split

    def __getnewargs__(self) -> tuple[DetectionDataset, str]:
        return self.dataset, self.name

    def __repr__(self) -> str:
        return f"DatasetSplit({self.name!r}, {len(self)} images of {self.dataset.name!r})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class id."""
        return self.dataset.class_names

    def to_coco(self) -> dict[str, Any]:
        """Return the split in COCO's layout; see `DetectionDataset.to_coco`."""
        return self.dataset.to_coco(self.name)
