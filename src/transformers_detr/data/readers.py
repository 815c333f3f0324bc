"""Registry of dataset readers: one row per format.

Each reader is a file of this folder with two functions: `find(path)` returns the layout of a dataset, or None if `path`
is not in its format; `read(name, layout, split, report)` returns a `ReadDataset`. Readers are imported when needed, so
that help texts can list the formats without loading torch.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers_detr.data.box_conventions import Convention, correct_convention
from transformers_detr.data.containment import Home, without_outsiders
from transformers_detr.data.findings import DatasetError, Reporter

if TYPE_CHECKING:
    from transformers_detr.data.records import ReadDataset

_FOLDERS_AROUND = 3
"""Folders around a dataset that hold nothing else, as unpacked archives have them."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class DatasetReader:
    """One format.

    Attributes:
        label: Its name for users.
        layout: Files by which it is recognized, for messages.
        module: File of this folder with `find` and `read`.
        boxes: How it gives boxes.
    """

    label: str
    layout: str
    module: str
    boxes: Convention

    @property
    def functions(self) -> Any:
        """The reader's module."""
        return importlib.import_module(f"transformers_detr.data.{self.module}")


READERS = {
    "coco": DatasetReader("COCO", "annotations/instances_train.json, annotations.json", "coco", "corner and size"),
    "yolo": DatasetReader("YOLO", "data.yaml, classes.txt", "yolo", "center and size"),
    "voc": DatasetReader("Pascal VOC", "Annotations/*.xml", "voc", "two corners"),
    "datasets": DatasetReader(
        "Hugging Face datasets", "dataset_dict.json, metadata.jsonl, *.parquet", "hf_datasets", "corner and size"
    ),
}
"""Formats by the value of `DetectionDataset.format`, in the order in which they are tried."""

FORMATS = ", ".join(reader.label for reader in READERS.values())
DATASET_HELP = f"Folder or file ({FORMATS}), or name on the Hub."


def read_dataset(
    source: str | Path, split: str | None, report: Reporter, keep_category_ids: bool = False
) -> tuple[str, ReadDataset]:
    """Find the format of a dataset and read it.

    Args:
        source: Folder, file or Hub name.
        split: The only split to read; None reads all.
        report: Called with each fault; the entry is skipped if it returns.
        keep_category_ids: COCO only: use the category ids as class ids.

    Returns:
        The format, a key of `READERS`, and the dataset.

    Raises:
        DatasetError: If there is no dataset, or a fault that makes it unreadable.
    """
    path, name = Path(source), str(source)
    format_, read = _read(path, name, split, report, keep_category_ids)
    home, convention = Home(path), READERS[format_].boxes
    splits = {
        key: correct_convention(without_outsiders(records, home, report), convention, key, path, report)
        for key, records in read.splits.items()
    }
    return format_, read._replace(splits=splits)


def _read(
    path: Path, name: str, split: str | None, report: Reporter, keep_category_ids: bool
) -> tuple[str, ReadDataset]:
    if not path.exists():
        if not HUB_NAME.fullmatch(name):
            raise DatasetError(f"{name}: no such file or folder")
        return "datasets", READERS["datasets"].functions.read(name, path, split, report)
    found = _find(path)
    if found is None:
        looked_for = "; ".join(f"{reader.label}: {reader.layout}" for reader in READERS.values())
        survey = importlib.import_module("transformers_detr.data.annotation_survey")
        raise DatasetError(f"{name}: no dataset found. {survey.describe(path)}Looked for {looked_for}")
    folder, format_, layout = found
    name = name if folder == path else str(folder)
    if keep_category_ids and format_ != "coco":
        raise DatasetError(f"{name}: not a COCO dataset, so it has no category ids to keep")
    options = {"keep_category_ids": True} if keep_category_ids else {}
    return format_, READERS[format_].functions.read(name, layout, split, report, **options)


def _find(path: Path, depth: int = _FOLDERS_AROUND) -> tuple[Path, str, Any] | None:
    """Return the folder or file of a dataset, its format and its layout; a single subfolder is looked into."""
    for format_, reader in READERS.items():
        layout = reader.functions.find(path)
        if layout is not None:
            return path, format_, layout
    READERS["coco"].functions.refuse_panoptic_alone(path)
    inner = [child for child in path.glob("*") if child.is_dir() and not child.name.startswith((".", "__"))]
    return _find(inner[0], depth - 1) if len(inner) == 1 and depth else None
