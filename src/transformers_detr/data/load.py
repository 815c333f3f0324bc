"""Opening a dataset: find out its format and read it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from transformers_detr.data.coco import PANOPTIC_ALONE, is_coco, read_coco
from transformers_detr.data.file_discovery import split_name
from transformers_detr.data.findings import DatasetError, Reporter, UnknownSplitError, raise_finding
from transformers_detr.data.hf_datasets import is_saved_dataset, read_hub_dataset
from transformers_detr.data.records import DetectionDataset
from transformers_detr.data.voc import find_voc, read_voc
from transformers_detr.data.yolo import find_yolo, read_yolo

T = TypeVar("T")

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COCO_PATTERNS = ("*.json", "annotations/*.json", "*/annotations.json", "*/*annotations.coco.json")
_COCO_NAMES = r"instances|_?annotations"
_PANOPTIC = "panoptic_"
_OTHER_JSON = (_PANOPTIC, "captions_", "person_keypoints_", "stuff_", "image_info_", "dataset_info")


def open_dataset(
    source: str | Path,
    split: str | None = None,
    *,
    keep_category_ids: bool = False,
    report: Reporter = raise_finding,
) -> DetectionDataset:
    """Read a dataset of labeled images, whatever its format.

    Known are COCO (a JSON file or a folder with such files), Pascal VOC, YOLO (`data.yaml`, its folder, or
    a folder with `classes.txt`), and Hugging Face `datasets` (a saved folder, or a name on the Hub). Splits
    are found by the names that each format's files and folders bear; a dataset without splits is "train".

    Args:
        source: Folder, file or Hub name.
        split: The only split to keep: "train", "val" or "test"; None keeps all. Class ids may depend on the
            splits read where their files declare different classes; see `DetectionDataset.with_classes`.
        keep_category_ids: COCO only: use the category ids as class ids, as the published checkpoints do.
        report: What to do with a fault: the default raises at the first; one that returns skips the entry.

    Raises:
        DatasetError: If nothing is there, the format is none of these, the split is missing, or a fault is
            met; it names the file, image and annotation.
    """
    path, name = Path(source), str(source)
    if not path.exists():
        if not _HUB_NAME.fullmatch(name):
            raise DatasetError(f"{name}: no such file or folder")
        return read_hub_dataset(name, split, report)
    if coco := _coco_files(path):
        return read_coco(name, _only(coco, split, name), report, keep_category_ids)
    if keep_category_ids:
        raise DatasetError(f"{name}: not a COCO dataset, so it has no category ids to keep")
    if yolo := find_yolo(path):
        return read_yolo(name, replace(yolo, images=_only(yolo.images, split, name)), report)
    if voc := find_voc(path):
        dataset = read_voc(name, voc, report)  # all of it: the classes are known only then
        return replace(dataset, splits=_only(dataset.splits, split, name))
    if is_saved_dataset(path):
        return read_hub_dataset(name, split, report)
    for file in _json_files(path):
        if file.name.startswith(_PANOPTIC):
            raise DatasetError(PANOPTIC_ALONE.format(path=file))
    raise DatasetError(
        f"{name}: no dataset found: neither COCO (annotations/instances_train.json, annotations.json), "
        "nor YOLO (data.yaml, classes.txt), nor Pascal VOC (Annotations/*.xml), nor one saved by datasets"
    )


def _only(splits: Mapping[str, T], split: str | None, name: str) -> dict[str, T]:
    """The wanted split alone, or all."""
    if split is not None and split not in splits:
        raise UnknownSplitError(name, split, splits)
    return {key: value for key, value in splits.items() if split in (None, key)}


def _coco_files(path: Path) -> dict[str, Path]:
    """COCO's annotation file of each split; empty if there is none."""
    if path.suffix == ".json":
        return {_split_of(path): path}
    candidates = [file for file in _json_files(path) if not file.name.startswith(_OTHER_JSON)]
    certain = [file for file in candidates if re.match(_COCO_NAMES, file.name)]
    files: dict[str, Path] = {}
    for file in certain or filter(is_coco, candidates):
        split = _split_of(file)
        if split in files:
            raise DatasetError(f"{path}: {files[split]} and {file} are both {split!r}; name one of the files")
        files[split] = file
    return files


def _json_files(path: Path) -> list[Path]:
    """The files of a folder that may be COCO's, whatever they hold."""
    return [file for pattern in _COCO_PATTERNS for file in sorted(path.glob(pattern))]


def _split_of(file: Path) -> str:
    return split_name(file.stem) or split_name(file.parent.name) or "train"
