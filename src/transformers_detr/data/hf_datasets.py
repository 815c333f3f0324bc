"""Reader of Hugging Face `datasets` with an `image` and an `objects` column, from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from transformers_detr.data.containment import ALLOW_OUTSIDE, Home
from transformers_detr.data.field_values import (
    Id,
    field,
    optional_number,
    shown,
    stated_size,
    to_box,
    to_id,
)
from transformers_detr.data.file_discovery import only_split, split_name, upright_size
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset

_FIELDS = {
    "bbox": ("bbox", "bboxes", "boxes"),
    "category": ("category", "category_id", "categories", "label", "labels", "class"),
    "area": ("area",),
    "iscrowd": ("iscrowd",),
}
"""Names of the fields of an object, as they are found."""


@dataclass(frozen=True)
class _Row:
    """One row: its image without objects, and the fields of each object by the names of `_FIELDS`."""

    image: ImageRecord
    objects: Sequence[Any]


def find(folder: Path) -> Path | None:
    """Return a folder that `datasets` wrote, or would read as images with metadata; else None."""
    names = ("dataset_dict.json", "state.json", "metadata.jsonl", "*/metadata.jsonl", "*.parquet", "data/*.parquet")
    return folder if any(next(folder.glob(name), None) is not None for name in names) else None


def read(name: str, layout: Path, split: str | None, report: Reporter) -> ReadDataset:
    """Read a dataset by the library `datasets`.

    The `objects` of a row hold `bbox` and `category` (or a near synonym), and may hold `area` and `iscrowd`.
    Boxes are x, y, width, height in pixels, as in most datasets.

    Args:
        name: Folder, or name on the Hub.
        layout: The folder; unused, since `name` is its path.
        split: The only split to read; None reads all.
        report: Called with each fault; the entry is skipped if it returns.

    Raises:
        DatasetError: If the library is missing, there is no such dataset, or a column is missing or malformed.
    """
    tables = only_split(_by_split(_load(name), name), split, name)
    declared = {key: _declared_classes(table, name) for key, table in tables.items()}
    rows = {key: list(_rows(table, Path(name, key), report)) for key, table in tables.items()}
    used = {value for part in rows.values() for row in part for value in _class_values(row)}
    known = dict.fromkeys(class_name for names in declared.values() for class_name in names)
    undeclared = sorted(used, key=lambda value: (isinstance(value, str), value)) if not all(declared.values()) else ()
    class_names = tuple(dict.fromkeys([*known, *map(str, undeclared)]))
    ranks = {class_name: label for label, class_name in enumerate(class_names)}
    splits = {}
    for key, part in rows.items():
        labels: dict[Id, int] = {value: ranks[class_name] for value, class_name in enumerate(declared[key])}
        labels = labels or {value: ranks[str(value)] for value in used}
        splits[key] = tuple(_records(part, labels, report))
    return ReadDataset(class_names, splits)


def _by_split(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the tables by the usual names of their splits.

    Raises:
        DatasetError: If two tables are the same split.
    """
    names: dict[str, str] = {}
    for key in tables:
        split = split_name(key) or key
        if split in names:
            raise DatasetError(f"{name}: the splits {names[split]!r} and {key!r} are both {split!r}")
        names[split] = key
    return {split: tables[key] for split, key in names.items()}


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


def _declared_classes(table: Any, name: str) -> tuple[str, ...]:
    """Return the class names that the columns of a table declare; none if they do not.

    Raises:
        DatasetError: If it has no images or no objects.
    """
    for column in ("image", "objects"):
        if column not in table.column_names:
            raise DatasetError(f"{name}: no column {column!r}; it has {', '.join(table.column_names)}")
    objects = table.features["objects"]
    fields = getattr(objects, "feature", objects)
    known = fields if isinstance(fields, Mapping) else {}
    classes = next((known[key] for key in _FIELDS["category"] if key in known), None)
    return tuple(getattr(getattr(classes, "feature", classes), "names", None) or ())


def _rows(table: Any, source: Path, report: Reporter) -> Iterator[_Row]:
    import datasets

    home = Home(source.parent) if source.parent.is_dir() else None
    table = table.cast_column("image", datasets.Image(decode=False))
    ids = table["image_id"] if "image_id" in table.column_names else range(len(table))
    if not all(isinstance(id, int) for id in ids) or len(set(ids)) < len(table):
        ids = range(len(table))
    for index, (id, entry) in enumerate(zip(ids, table.remove_columns("image"), strict=True)):
        encoded = partial(_encoded, table, index, home)
        path = source / str(index)
        try:
            height, width = stated_size(entry) or upright_size(encoded())
        except (OSError, ValueError) as error:
            report(Finding("image-unreadable", f"the image's size is needed: {error}", path, id))
            continue
        try:
            objects = _objects(entry["objects"])
        except ValueError as error:
            report(Finding("annotation-malformed", f"'objects': {error}", path, id))
            continue
        yield _Row(ImageRecord(id, path, height, width, (), source, encoded), objects)


def _encoded(table: Any, index: int, home: Home | None) -> bytes:
    image = table[index]["image"]
    if not image or (image["bytes"] is None and image["path"] is None):
        raise ValueError("the row has no image")
    if image["bytes"] is not None:
        return image["bytes"]
    path = Path(image["path"])
    if home is not None and not home.holds(path):
        raise ValueError(f"{path} lies outside {home.folder}; {ALLOW_OUTSIDE}=1 allows it")
    return path.read_bytes()


def _objects(objects: Any) -> list[Any]:
    """Return the fields of each object, from a dictionary of lists or a list of dictionaries.

    Raises:
        ValueError: If there are no boxes or classes, or not as many classes as boxes.
    """
    if isinstance(objects, str):
        raise ValueError(f"must be objects, got {shown(objects)}")
    if not isinstance(objects, Mapping):
        return [_named(item) if isinstance(item, Mapping) else item for item in objects or ()]
    columns = {key: values or () for key, values in _named(objects).items()}
    boxes, classes = columns["bbox"], columns["category"]
    if len(boxes) != len(classes):
        raise ValueError(f"{len(boxes)} boxes but {len(classes)} classes")
    filled = {key: values for key, values in columns.items() if len(values) == len(boxes)}
    return [dict(zip(filled, values, strict=True)) for values in zip(*filled.values(), strict=True)]


def _named(objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `_FIELDS` by their first name.

    Raises:
        ValueError: If there are no boxes or classes.
    """
    found = {name: next((key for key in keys if key in objects), None) for name, keys in _FIELDS.items()}
    for name in ("bbox", "category"):
        if found[name] is None:
            raise ValueError(f"none of {', '.join(_FIELDS[name])} among {', '.join(objects)}")
    return {name: objects[key] for name, key in found.items() if key is not None}


def _class_values(row: _Row) -> Iterator[Id]:
    for entry in row.objects:
        with suppress(ValueError):
            yield field(entry, "category", to_id)


def _records(rows: Iterable[_Row], labels: Mapping[Id, int], report: Reporter) -> Iterator[ImageRecord]:
    ids = count(1)
    for row in rows:
        objects = []
        for index, (entry, id) in enumerate(zip(row.objects, ids, strict=False)):
            place = f"object {index + 1}"

            def fault(
                code: str, message: str, id: int = id, place: str = place, image: ImageRecord = row.image
            ) -> None:
                report(Finding(code, message, image.path, image.id, id, place))

            try:
                box, value = field(entry, "bbox", to_box), field(entry, "category", to_id)
            except ValueError as error:
                fault("annotation-malformed", str(error))
                continue
            if value not in labels:
                fault("category-unknown", f"class {shown(value)} of {len(labels)}")
                continue
            unreadable = partial(fault, "field-unreadable")
            area = optional_number(entry, "area", box[2] * box[3], unreadable)
            crowd = bool(optional_number(entry, "iscrowd", 0, unreadable))
            objects.append(ObjectRecord(id, labels[value], box, area, crowd, place=place))
        yield replace(row.image, objects=tuple(objects))
