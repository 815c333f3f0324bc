"""Labeled images to evaluate on, with classes numbered as the model numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError, Reporter, UnknownSplitError, raise_finding
from transformers_detr.data.records import ImageRecord
from transformers_detr.evaluation.coco_types import CocoDataset
from transformers_detr.hub.class_names import NO_CLASS

DEFAULT_SPLIT = "val"


@dataclass(frozen=True)
class EvaluationData:
    """One split of a dataset.

    Attributes:
        dataset: The dataset, with this split alone.
        split: Name of the split.
    """

    dataset: DetectionDataset
    split: str

    @property
    def images(self) -> tuple[ImageRecord, ...]:
        """The images, in the dataset's order."""
        return tuple(self.dataset.split(self.split))

    @property
    def ground_truth(self) -> CocoDataset:
        """Images, objects and classes in COCO's layout; category ids are class ids."""
        truth: CocoDataset = self.dataset.to_coco(self.split)  # type: ignore[assignment]
        return truth

    @property
    def label_of(self) -> dict[str, int]:
        """Class name → class id."""
        return {name: label for label, name in self.dataset.id2label.items() if name != NO_CLASS}


def select_data(
    data: str | Path | DetectionDataset | Sequence[ImageRecord],
    split: str | None = None,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    *,
    keep_category_ids: bool = False,
    report: Reporter = raise_finding,
) -> EvaluationData:
    """Select the images of a split, opening the dataset if needed.

    Args:
        data: Folder, file, Hub name, loaded dataset, or one of its splits.
        split: Name of the split; None selects "val", or the only split.
        limit: Keep only the first `limit` images.
        class_names: Number the classes as in this list.
        keep_category_ids: Number the classes by COCO's category ids, where `data` is the path of a COCO dataset.
        report: Called with each fault found in the dataset; see `DetectionDataset.load`.

    Raises:
        DatasetError: The dataset cannot be read, lacks the split, or has a class that `class_names` lacks.
        TypeError: `data` has another type.
        ValueError: `data` is a split, and `split` names another one.
    """
    if isinstance(data, DetectionDataset):
        dataset, name = data, split or _default_split(data.splits)
    elif isinstance(data, str | Path):
        dataset, name = _open(data, split, keep_category_ids, report)
    else:
        dataset, name = _of_split(data)
        if split not in (None, name):
            raise ValueError(f"split is {split!r}, but data is the split {name!r}")
    dataset = replace(dataset, splits={name: tuple(dataset.split(name))[:limit]})
    if class_names is not None:
        dataset = dataset.with_classes(class_names)
    return EvaluationData(dataset, name)


def _of_split(data: Any) -> tuple[DetectionDataset, str]:
    """Return a dataset that holds the images of a split alone, and the name of the split."""
    dataset, name = getattr(data, "dataset", None), getattr(data, "name", None)
    if not isinstance(dataset, DetectionDataset) or name is None:
        raise TypeError(f"data must be a path, a DetectionDataset or one of its splits, got {type(data).__name__}")
    return replace(dataset, splits={name: tuple(data)}), name


def _open(
    data: str | Path, split: str | None, keep_category_ids: bool, report: Reporter
) -> tuple[DetectionDataset, str]:
    name = split or DEFAULT_SPLIT
    try:
        dataset = DetectionDataset.load(data, name, report=report)
    except UnknownSplitError as error:
        if split is not None:
            raise
        name = _default_split(error.splits, error)
        dataset = DetectionDataset.load(data, name, report=report)
    if keep_category_ids and dataset.format == "coco":
        dataset = DetectionDataset.load(data, name, report=report, keep_category_ids=True)
    return dataset, name


def _default_split(splits: Any, error: DatasetError | None = None) -> str:
    """Return "val", or the only split."""
    names = tuple(splits)
    if DEFAULT_SPLIT in names or len(names) != 1:
        if error is not None:
            raise error
        return DEFAULT_SPLIT
    (only,) = names
    return str(only)
