"""Reader of Hugging Face `datasets` with an `image` and an `objects` column, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers_detr.data.file_discovery import only_split, split_name, upright_size
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset

_BOX_KEYS = ("bbox", "bboxes", "boxes")
_CLASS_KEYS = ("category", "category_id", "categories", "label", "labels", "class")
_FRAME_SLACK_PX = 1.0


@dataclass(frozen=True)
class _Row:
    """One row: its image, the image's size, and its objects in the form of the table."""

    id: int
    path: Path
    size: tuple[int, int]
    boxes: Sequence[Any]
    classes: Sequence[Any]
    areas: Sequence[float] | None
    crowds: Sequence[int] | None
    encoded: partial[bytes]


def find(folder: Path) -> Path | None:
    """Return a folder that `datasets` wrote, or would read as images with metadata; else None."""
    names = ("dataset_dict.json", "state.json", "metadata.jsonl", "*/metadata.jsonl", "*.parquet", "data/*.parquet")
    return folder if any(next(folder.glob(name), None) is not None for name in names) else None


def read(name: str, layout: Path, split: str | None, report: Reporter) -> ReadDataset:
    """Read a dataset by the library `datasets`.

    The `objects` of a row hold `bbox` and `category` (or a near synonym), and may hold `area` and `iscrowd`.
    Boxes are x, y, width, height in pixels, as in most datasets. They are read as corners if all of them lie inside
    their images only then.

    Args:
        name: Folder, or name on the Hub.
        layout: The folder; unused, since `name` is its path.
        split: The only split to read; None reads all.
        report: Called with each fault; the entry is skipped if it returns.

    Raises:
        DatasetError: If the library is missing, there is no such dataset, or a column is missing or malformed.
    """
    tables = only_split({split_name(key) or key: table for key, table in _load(name).items()}, split, name)
    first = next(iter(tables.values()))
    for column in ("image", "objects"):
        if column not in first.column_names:
            raise DatasetError(f"{name}: no column {column!r}; it has {', '.join(first.column_names)}")
    rows = {key: list(_rows(table, Path(name, key), report)) for key, table in tables.items()}
    class_names, labels = _classes(first.features["objects"], rows.values())
    corners = _are_corners([row for part in rows.values() for row in part])
    splits = {key: tuple(_records(part, labels, corners, Path(name, key), report)) for key, part in rows.items()}
    return ReadDataset(class_names, splits)


def _load(name: str) -> Mapping[str, Any]:
    """Load the tables of a dataset by split."""
    try:
        import datasets
    except ImportError as error:
        message = "reading it needs the library datasets: pip install datasets"
        raise DatasetError(f"{name}: {message}") from error
    folder = Path(name)
    try:
        saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
        loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"{name}: cannot be loaded: {error}") from error
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


def _rows(table: Any, place: Path, report: Reporter) -> Iterable[_Row]:
    import datasets

    table = table.cast_column("image", datasets.Image(decode=False))
    described = table.remove_columns("image")
    sized = {"width", "height"} <= set(table.column_names)
    ids = table["image_id"] if "image_id" in table.column_names else range(len(table))
    if not all(isinstance(id, int) for id in ids) or len(set(ids)) < len(table):
        ids = range(len(table))
    for index, (id, entry) in enumerate(zip(ids, described, strict=True)):
        encoded = partial(_encoded, table, index)
        path = place / str(index)
        try:
            size = (entry["height"], entry["width"]) if sized else upright_size(encoded())
        except (OSError, ValueError) as error:
            report(Finding("image-unreadable", f"the image's size is needed: {error}", path, id))
            continue
        try:
            yield _row(id, path, size, entry["objects"], encoded)
        except (KeyError, TypeError, ValueError) as error:
            report(Finding("annotation-malformed", f"'objects': {error}", path, id))


def _encoded(table: Any, index: int) -> bytes:
    image = table[index]["image"]
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _row(id: int, path: Path, size: tuple[int, int], objects: Any, encoded: partial[bytes]) -> _Row:
    if isinstance(objects, list):  # one dictionary per object
        keys = objects[0].keys() if objects else (_BOX_KEYS[0], _CLASS_KEYS[0])
        objects = {key: [item[key] for item in objects] for key in keys}
    boxes, classes = (_column(objects, keys) for keys in (_BOX_KEYS, _CLASS_KEYS))
    if len(boxes) != len(classes):
        raise ValueError(f"{len(boxes)} boxes but {len(classes)} classes")
    return _Row(id, path, size, boxes, classes, objects.get("area"), objects.get("iscrowd"), encoded)


def _column(objects: Mapping[str, Any], keys: Sequence[str]) -> Sequence[Any]:
    key = next((key for key in keys if key in objects), None)
    if key is None:
        raise ValueError(f"none of {', '.join(keys)} among {', '.join(objects)}")
    return objects[key]


def _classes(feature: Any, parts: Iterable[Iterable[_Row]]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the class names, and the class id of each value of the table."""
    fields = getattr(feature, "feature", feature)
    column = next((fields[key] for key in _CLASS_KEYS if key in fields), None)
    names = getattr(getattr(column, "feature", column), "names", None)
    if names is not None:
        return tuple(names), {label: label for label in range(len(names))}
    values = sorted({value for rows in parts for row in rows for value in row.classes})
    return tuple(map(str, values)), {value: label for label, value in enumerate(values)}


def _are_corners(rows: Iterable[_Row]) -> bool:
    """Return whether boxes are corners: all lie inside their images then, but not as x, y, width, height."""
    leaves = False
    for row in rows:
        for box in row.boxes:
            if len(box) != 4:
                continue
            x, y, a, b = box
            height, width = (side + _FRAME_SLACK_PX for side in row.size)
            if not (x <= a <= width and y <= b <= height):
                return False
            leaves = leaves or x + a > width or y + b > height
    return leaves


def _records(
    rows: Iterable[_Row], labels: Mapping[Any, int], corners: bool, source: Path, report: Reporter
) -> Iterable[ImageRecord]:
    count = 0
    for row in rows:
        objects = []
        for index, (box, value) in enumerate(zip(row.boxes, row.classes, strict=True)):
            count += 1
            place = f"object {index + 1}"
            if len(box) != 4:
                message = f"a box must be four numbers, got {box}"
                report(Finding("annotation-malformed", message, row.path, row.id, count, place))
            elif value not in labels:
                message = f"class {value!r} of {len(labels)}"
                report(Finding("category-unknown", message, row.path, row.id, count, place))
            else:
                x, y, a, b = map(float, box)
                width, height = (a - x, b - y) if corners else (a, b)
                area = float(row.areas[index]) if row.areas else width * height
                crowd = bool(row.crowds[index]) if row.crowds else False
                objects.append(ObjectRecord(count, labels[value], (x, y, width, height), area, crowd, place=place))
        yield ImageRecord(row.id, row.path, *row.size, tuple(objects), source, row.encoded)
