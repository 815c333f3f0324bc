"""Reader of COCO JSON: one file per split."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers_detr.data.coco_entries import CocoFileReader, split_of_file
from transformers_detr.data.field_values import Id, field, to_id, to_text
from transformers_detr.data.file_discovery import files_below, is_image, only_split, read_text
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.image_lookup import ImageLookup
from transformers_detr.data.records import ReadDataset
from transformers_detr.hub.class_names import NO_CLASS

PANOPTIC_ALONE = (
    "{path}: panoptic annotations alone are not a dataset here; boxes are read from COCO's instances file of the same "
    "images, such as instances_val2017.json beside panoptic_val2017.json"
)

LARGEST_KEPT_ID = 9_999
"""Largest category id that is kept as a class id; a model has an output for each."""

_PATTERNS = ("*.json", "annotations/*.json", "*/annotations.json", "*/*annotations.coco.json")
_NAMES = r"instances|_?annotations"
_PANOPTIC = "panoptic_"
_OTHER_JSON = (_PANOPTIC, "captions_", "person_keypoints_", "stuff_", "image_info_", "dataset_info")


def find(path: Path) -> dict[str, Path] | None:
    """Return COCO's annotation file of each split; None if there is none."""
    if path.suffix == ".json":
        return {split_of_file(path) or "train": path}
    candidates = [file for file in _json_files(path) if not file.name.startswith(_OTHER_JSON)]
    certain = [file for file in candidates if re.match(_NAMES, file.name)]
    others = [file for file in candidates if file not in certain and (not certain or split_of_file(file))]
    files: dict[str, Path] = {}
    for file in (*certain, *filter(_is_coco, others)):
        split = split_of_file(file) or "train"
        if split in files and certain and file not in certain:
            continue  # reported as not read
        if split in files:
            raise DatasetError(f"{path}: {files[split]} and {file} are both {split!r}; name one of the files")
        files[split] = file
    return files or None


def refuse_panoptic_alone(path: Path) -> None:
    """Refuse a folder that holds only COCO's panoptic annotations.

    Raises:
        DatasetError: If it does; the message names the missing file.
    """
    for file in _json_files(path):
        if file.name.startswith(_PANOPTIC):
            raise DatasetError(PANOPTIC_ALONE.format(path=file))


def _json_files(path: Path) -> list[Path]:
    """List the JSON files of a folder that may be COCO's by their names."""
    return [file for pattern in _PATTERNS for file in sorted(path.glob(pattern))]


def read(
    name: str, layout: Mapping[str, Path], split: str | None, report: Reporter, *, keep_category_ids: bool = False
) -> ReadDataset:
    """Read COCO JSON files.

    Args:
        name: Name of the dataset.
        layout: Annotation file of each split.
        split: The only split to read; None reads all.
        report: Called with each fault; the entry is skipped if it returns.
        keep_category_ids: Use the category ids as class ids, as the published checkpoints do with COCO's,
            with names "N/A" in the gaps; otherwise classes are numbered from 0 in the order of their ids, and
            ids of the same name become one class. The ids of a file mean the names that this file gives them.

    Raises:
        DatasetError: If a file is not a COCO instances file at all, declares no category, or its ids cannot be kept.
    """
    files = only_split(layout, split, name)
    contents = {key: _load(path) for key, path in files.items()}
    told: set[tuple[Id, Id]] = set()
    categories = {
        key: _categories(content["categories"], files[key], told, report) for key, content in contents.items()
    }
    if not any(categories.values()):
        raise DatasetError(f"{', '.join(map(str, files.values()))}: no categories")
    if keep_category_ids:
        class_names = _names_by_id(categories, files)
        labels = {key: {id: int(id) for id in known} for key, known in categories.items()}
    else:
        class_names = _names_in_order(categories.values())
        ranks = {class_name: label for label, class_name in enumerate(class_names)}
        labels = {key: {id: ranks[known[id]] for id in known} for key, known in categories.items()}
    lookups = {root: ImageLookup(root) for root in {_image_root(name, path) for path in files.values()}}
    splits = {}
    for key, path in files.items():
        reader = CocoFileReader(path, labels[key], lookups[_image_root(name, path)], report)
        splits[key] = reader.images(contents[key]["images"], contents[key]["annotations"])
    return ReadDataset(class_names, splits, tuple(files.values()))


def _image_root(name: str, file: Path) -> Path:
    """Return the folder to search for images: the dataset's; of a single file its folder, or the one above."""
    if Path(name).is_dir():
        return Path(name)
    has_images = any(is_image(path.name) for path in files_below(file.parent))
    return file.parent if has_images else file.parent.parent


def _is_coco(path: Path) -> bool:
    """Return whether a JSON file is an instances file (not captions or results), judged by its first objects."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(read_text(path))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f"{path}: not a COCO instances file: no list {key!r}")
    if any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"][:1]):
        raise DatasetError(PANOPTIC_ALONE.format(path=path))
    return content


def _categories(entries: Iterable[Any], path: Path, told: set[tuple[Id, Id]], report: Reporter) -> dict[Id, str]:
    """Read the names of a file's category ids; `told` holds the pairs of one name that were reported."""
    names: dict[Id, str] = {}
    for index, entry in enumerate(entries):
        try:
            id, name = field(entry, "id", to_id), field(entry, "name", to_text)
        except ValueError as error:
            report(Finding("annotation-malformed", str(error), path, place=f"category {index + 1}"))
            continue
        if names.get(id, name) != name:
            report(Finding("category-repeated", f"category id {id} is {names[id]!r} and {name!r}", path))
            continue
        twin = next((other for other, known in names.items() if known == name and other != id), None)
        if twin is not None and (twin, id) not in told:
            report(Finding("category-twin", f"category ids {twin} and {id} are both {name!r}", path))
            told.add((twin, id))
        names[id] = name
    return names


def _names_in_order(categories: Iterable[Mapping[Id, str]]) -> tuple[str, ...]:
    """Return the names of all files in the order of their smallest ids."""
    first: dict[str, tuple[bool, Id]] = {}
    for names in categories:
        for id, name in names.items():
            rank = (isinstance(id, str), id)
            first[name] = min(first.get(name, rank), rank)
    return tuple(sorted(first, key=lambda name: first[name]))


def _names_by_id(categories: Mapping[str, Mapping[Id, str]], files: Mapping[str, Path]) -> tuple[str, ...]:
    """Return a name for each category id, the same in all files.

    Raises:
        DatasetError: If an id is no class id, or means different names in different files.
    """
    names: dict[int, str] = {}
    for key, known in categories.items():
        for id, name in known.items():
            if not isinstance(id, int) or not 0 <= id <= LARGEST_KEPT_ID:
                message = f"cannot be kept as a class id, which lies between 0 and {LARGEST_KEPT_ID}"
                raise DatasetError(f"{files[key]}: category id {id} {message}")
            if names.setdefault(id, name) != name:
                message = f"is {name!r}, but {names[id]!r} in another file, so the ids cannot be kept"
                raise DatasetError(f"{files[key]}: category id {id} {message}")
    return tuple(names.get(label, NO_CLASS) for label in range(max(names) + 1))
