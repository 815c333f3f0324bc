"""Reader of YOLO folders: one text file per image, one line per object, relative to the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from transformers_detr.data.file_discovery import image_files, only_split, split_name, upright_size
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset

_LARGEST_RELATIVE = 1.5
"""A coordinate above this is in pixels; a smaller one may reach slightly beyond the frame."""


@dataclass(frozen=True)
class YoloLayout:
    """Layout of a dataset: the file that names the classes, the class names, the images of each split."""

    source: Path
    class_names: tuple[str, ...]
    images: Mapping[str, tuple[Path, ...]]


def find(path: Path) -> YoloLayout | None:
    """Read the layout from `data.yaml` (the file, or its folder) or `classes.txt`; None if neither is there.

    Raises:
        DatasetError: If the file is there but unusable.
    """
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    for file in sorted((*path.glob("*.yaml"), *path.glob("*.yml"))):
        if "names" in _load_yaml(file):
            return _from_yaml(file)
    for file in (path / "classes.txt", path / "labels" / "classes.txt"):
        if file.is_file():
            return _from_class_list(path, file)
    return None


def read(name: str, layout: YoloLayout, split: str | None, report: Reporter) -> ReadDataset:
    """Read YOLO label files; an image without one has no objects.

    A line is `class cx cy width height`, or `class x1 y1 x2 y2 …` for a polygon.

    Args:
        name: Name of the dataset.
        layout: From `find`.
        split: The only split to read; None reads all.
        report: Called with each fault; the entry is skipped if it returns.
    """
    reader = _Reader(layout, report)
    splits = {
        key: tuple(image for path in paths if (image := reader.image(path)) is not None)
        for key, paths in only_split(layout.images, split, name).items()
    }
    return ReadDataset(layout.class_names, splits)


class _Reader:
    """Turn label files into records, with ids by counting."""

    def __init__(self, layout: YoloLayout, report: Reporter) -> None:
        self.layout = layout
        self.report = report
        self.images = 0
        self.objects = 0

    def image(self, path: Path) -> ImageRecord | None:
        id = self.images
        self.images += 1
        try:
            height, width = upright_size(path)
        except (OSError, ValueError) as error:
            code = "image-unreadable" if path.exists() else "image-missing"
            self.report(Finding(code, f"the image's size is needed: {error}", path, id))
            return None
        labels = label_file(path)
        lines = labels.read_text(encoding="utf-8", errors="replace").splitlines() if labels.is_file() else []
        items = (
            self._object(line.split(), number, labels, id, (height, width))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        )
        objects = tuple(item for item in items if item is not None)
        return ImageRecord(id, path, height, width, objects, source=labels)

    def _object(
        self, columns: list[str], number: int, file: Path, image_id: int, size: tuple[int, int]
    ) -> ObjectRecord | None:
        self.objects += 1
        height, width = size
        problem = _problem(columns, len(self.layout.class_names))
        if problem is not None:
            code, message = problem
            self.report(Finding(code, message, file, image_id, self.objects, f"line {number}"))
            if code != "box-in-pixels":
                return None
            height, width = 1, 1
        label, *numbers = map(float, columns)
        scaled = [value * (height if index % 2 else width) for index, value in enumerate(numbers)]
        is_polygon = len(scaled) > 4
        box = _around(scaled) if is_polygon else _from_center(scaled)
        return ObjectRecord(
            id=self.objects,
            label=int(label),
            box_xywh_px=box,
            area=_polygon_area(scaled) if is_polygon else box[2] * box[3],
            segmentation=[scaled] if is_polygon else None,
            place=f"line {number}",
        )


def _problem(columns: list[str], classes: int) -> tuple[str, str] | None:
    """Return code and message of a fault of a line; None without one."""
    try:
        label, *numbers = map(float, columns)
    except ValueError:
        return "annotation-malformed", f"a line must hold a class number and coordinates, got {columns}"
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        return "annotation-malformed", (
            f"a line must hold 4 numbers after the class, or an even number from 6 on, got {len(numbers)}"
        )
    if label not in range(classes):
        return "category-unknown", f"class {columns[0]} is not among the {classes} declared"
    if max(numbers) > _LARGEST_RELATIVE:
        return "box-in-pixels", f"coordinates must lie between 0 and 1, got {numbers}"
    return None


def label_file(image: Path) -> Path:
    """Return the label file of an image: in the folder `labels` instead of `images`, or beside it."""
    parts = list(image.parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: not YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def _from_yaml(path: Path) -> YoloLayout:
    content = _load_yaml(path)
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DatasetError(f"{path}: 'names' must be numbered from 0 without gaps, got {sorted(names)}")
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{path}: 'names' must list the class names, got {names!r}")
    if content.get("nc", len(names)) != len(names):
        raise DatasetError(f"{path}: 'nc' is {content['nc']}, but 'names' has {len(names)}")
    images: dict[str, tuple[Path, ...]] = {}
    for key, entry in content.items():
        split = split_name(str(key))
        if split and entry:
            entries = entry if isinstance(entry, list) else [entry]
            base = path.parent / str(content.get("path") or "")
            images[split] = tuple(file for one in entries for file in _images_of(str(one), base, path))
    if not images:
        raise DatasetError(f"{path}: none of 'train', 'val', 'test' names a folder of images")
    return YoloLayout(path, tuple(map(str, names)), images)


def _images_of(entry: str, base: Path, source: Path) -> Iterator[Path]:
    """List the images of one entry of data.yaml: a folder, or a text file that lists them.

    Exports often write `../train/images` for a folder beside data.yaml, so this is tried too.
    """
    home = source.parent
    places = [base / entry, home / entry, home / entry.replace("../", "").removeprefix("./")]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise DatasetError(f"{source}: {entry!r} is not there; tried {', '.join(map(str, places))}")
    if place.is_dir():
        yield from image_files(place, nested=True)
        return
    for line in place.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield place.parent / line.strip()


def _from_class_list(folder: Path, classes: Path) -> YoloLayout:
    """Read the layout `images/`, `labels/`, `classes.txt`, with or without a folder for each split."""
    names = tuple(line.strip() for line in classes.read_text(encoding="utf-8").splitlines() if line.strip())
    images: dict[str, tuple[Path, ...]] = {}
    for child in sorted((*folder.glob("images/*"), *folder.glob("*/images"))):
        split = split_name(child.name) or split_name(child.parent.name)
        if child.is_dir() and split:
            images[split] = tuple(image_files(child, nested=True))
    images = images or {"train": tuple(image_files(folder / "images") or image_files(folder))}
    if not names or not any(images.values()):
        raise DatasetError(f"{classes}: {len(names)} classes, but no images in {folder / 'images'}")
    return YoloLayout(classes, names, images)


def _from_center(numbers: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = numbers
    return (x - width / 2, y - height / 2, width, height)


def _around(polygon: list[float]) -> tuple[float, float, float, float]:
    xs, ys = polygon[0::2], polygon[1::2]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def _polygon_area(polygon: list[float]) -> float:
    """Compute the area by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    following = zip(xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True)
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(zip(xs, ys, strict=True), following, strict=True))) / 2
