"""Reader of COCO JSON: one file per split."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers_detr.data.file_discovery import only_split, split_name, upright_size
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset
from transformers_detr.hub.published_checkpoints import NO_CLASS

PANOPTIC_ALONE = (
    "{path}: panoptic annotations alone are not a dataset here; boxes are read from COCO's instances file of the same "
    "images, such as instances_val2017.json beside panoptic_val2017.json"
)

_PROBED_IMAGES = 20
"""Number of images to look for when finding the folder of an annotation file's images."""


_PATTERNS = ("*.json", "annotations/*.json", "*/annotations.json", "*/*annotations.coco.json")
_NAMES = r"instances|_?annotations"
_PANOPTIC = "panoptic_"
_OTHER_JSON = (_PANOPTIC, "captions_", "person_keypoints_", "stuff_", "image_info_", "dataset_info")


def find(path: Path) -> dict[str, Path] | None:
    """Return COCO's annotation file of each split; None if there is none."""
    if path.suffix == ".json":
        return {_split_of(path): path}
    candidates = [file for file in _json_files(path) if not file.name.startswith(_OTHER_JSON)]
    certain = [file for file in candidates if re.match(_NAMES, file.name)]
    files: dict[str, Path] = {}
    for file in certain or filter(_is_coco, candidates):
        split = _split_of(file)
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


def _split_of(file: Path) -> str:
    return split_name(file.stem) or split_name(file.parent.name) or "train"


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
            ids of the same name become one class.

    Raises:
        DatasetError: If a file is not a COCO instances file at all, or declares no category.
    """
    files = only_split(layout, split, name)
    contents = {key: _load(path) for key, path in files.items()}
    names: dict[int, str] = {}
    for key, content in contents.items():
        _collect_categories(content["categories"], files[key], names, report)
    if not names:
        raise DatasetError(f"{', '.join(map(str, files.values()))}: no categories")
    if keep_category_ids and min(names) < 0:
        raise DatasetError(f"{name}: category id {min(names)} cannot be kept as a class id")
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(names[id] for id in sorted(names)))}
    labels = {id: id if keep_category_ids else ranks[names[id]] for id in names}
    class_names = [NO_CLASS] * (max(labels.values()) + 1)
    for id, label in labels.items():
        class_names[label] = names[id]
    splits = {key: _images(content, files[key], labels, report) for key, content in contents.items()}
    return ReadDataset(tuple(class_names), splits)


def _is_coco(path: Path) -> bool:
    """Return whether a JSON file is an instances file (not captions or results), judged by its first objects."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f"{path}: not a COCO instances file: no list {key!r}")
    if any(isinstance(entry, dict) and "segments_info" in entry for entry in content["annotations"][:1]):
        raise DatasetError(PANOPTIC_ALONE.format(path=path))
    return content


def _collect_categories(entries: Iterable[Any], path: Path, names: dict[int, str], report: Reporter) -> None:
    """Add a file's categories to `names`."""
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        problem = _problem(entry, {"id": int, "name": str})
        if problem:
            report(Finding("annotation-malformed", problem, path, place=f"category {index + 1}"))
            continue
        id, name = entry["id"], entry["name"]
        if id in seen or names.get(id, name) != name:
            report(Finding("category-repeated", f"category id {id} is {names[id]!r} and {name!r}", path))
            continue
        twin = next((other for other, known in names.items() if known == name and other != id), None)
        if twin is not None and id not in names:  # or another file's entry said so
            report(Finding("category-twin", f"category ids {twin} and {id} are both {name!r}", path))
        seen.add(id)
        names[id] = name


def _images(
    content: dict[str, list[Any]], path: Path, labels: Mapping[int, int], report: Reporter
) -> tuple[ImageRecord, ...]:
    entries: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(content["images"]):
        problem = _problem(entry, {"id": int, "file_name": str})
        if problem:
            report(Finding("annotation-malformed", problem, path, place=f"image entry {index + 1}"))
        elif entry["id"] in entries:
            message = f"{entries[entry['id']]['file_name']} and {entry['file_name']} have the same id"
            report(Finding("image-id-repeated", message, path, entry["id"]))
        else:
            entries[entry["id"]] = entry
    objects: dict[int, list[ObjectRecord]] = {id: [] for id in entries}
    for index, entry in enumerate(content["annotations"]):
        item = _object(entry, index, path, labels, objects.keys(), report)
        if item is not None:
            objects[entry["image_id"]].append(item)
    folder = _image_folder(path, [entry["file_name"] for entry in entries.values()], report)
    records = []
    for id, entry in entries.items():
        image_path = folder / entry["file_name"]
        try:
            height, width = _size(entry) or upright_size(image_path)
        except (OSError, ValueError) as error:
            message = f"no usable 'height' and 'width', and the size of {image_path} cannot be read: {error}"
            report(Finding("annotation-malformed", message, path, id))
            continue
        records.append(ImageRecord(id, image_path, height, width, tuple(objects[id]), source=path))
    return tuple(records)


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the size that an image entry states, if it does."""
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return height, width
    return None


def _object(
    entry: Any,
    index: int,
    path: Path,
    labels: Mapping[int, int],
    image_ids: Iterable[int],
    report: Reporter,
) -> ObjectRecord | None:
    """Read one annotation; None if it was reported and is skipped."""
    problem = _problem(entry, {"id": int, "image_id": int, "category_id": int, "bbox": list})
    if not problem and not (len(entry["bbox"]) == 4 and all(map(_is_number, entry["bbox"]))):
        problem = f"'bbox' must be four numbers, got {entry['bbox']}"
    if not problem and not _is_number(entry.get("area", 0)):
        problem = f"'area' must be a number, got {entry['area']!r}"
    if problem:
        known = entry if isinstance(entry, dict) else {}
        report(
            Finding(
                "annotation-malformed",
                problem,
                path,
                image_id=_int_or_none(known.get("image_id")),
                annotation_id=_int_or_none(known.get("id")),
                place=f"annotation entry {index + 1}",
            )
        )
    elif entry["image_id"] not in image_ids:
        message = f"image id {entry['image_id']} is not in 'images'"
        report(Finding("image-unlisted", message, path, entry["image_id"], entry["id"]))
    elif entry["category_id"] not in labels:
        message = f"category id {entry['category_id']} is not in 'categories' ({_shortened(labels)})"
        report(Finding("category-unknown", message, path, entry["image_id"], entry["id"]))
    else:
        x, y, width, height = map(float, entry["bbox"])
        return ObjectRecord(
            id=entry["id"],
            label=labels[entry["category_id"]],
            box_xywh_px=(x, y, width, height),
            area=float(entry.get("area", width * height)),
            iscrowd=bool(entry.get("iscrowd", 0)),
            segmentation=entry.get("segmentation"),
        )
    return None


def _problem(entry: Any, fields: Mapping[str, type]) -> str | None:
    """Describe which field an entry lacks or has with the wrong type."""
    if not isinstance(entry, dict):
        return f"must be an object, got {entry!r}"
    for key, type_ in fields.items():
        if key not in entry:
            return f"no {key!r}"
        if not isinstance(entry[key], type_) or isinstance(entry[key], bool):
            return f"{key!r} must be of type {type_.__name__}, got {entry[key]!r}"
    return None


def _int_or_none(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shortened(ids: Iterable[int]) -> str:
    ordered = sorted(ids)
    return ", ".join(map(str, ordered)) if len(ordered) <= 12 else f"{ordered[0]} … {ordered[-1]}"


def _image_folder(path: Path, file_names: list[str], report: Reporter) -> Path:
    """Return the folder of an annotation file's images: the candidate that has most of the first images."""
    tag = path.stem.removeprefix("instances_").removeprefix("annotations_")
    near, above = path.parent, path.parent.parent
    folders = [near / "images", near, near / tag, above / tag, above / "images" / tag, above / "images", above]
    probes = file_names[:_PROBED_IMAGES]
    found = [sum((folder / name).is_file() for name in probes) for folder in folders]
    if probes and not any(found):
        tried = ", ".join(map(str, folders))
        report(Finding("image-missing", f"{probes[0]} and the next ones are in none of: {tried}", path))
    return folders[found.index(max(found))]
