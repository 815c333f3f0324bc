"""Reader of YOLO folders: one text file per image, one line per object, relative to the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers_detr.data.file_discovery import only_split, read_text, upright_size
from transformers_detr.data.findings import Finding, Reporter
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset
from transformers_detr.data.yolo_layout import YoloLayout, find, label_file
from transformers_detr.data.yolo_lines import LineRule, line_rule, polygon_area

__all__ = ["find", "read"]

Line = tuple[int, list[str]]
"""Number and columns of a line."""


def read(name: str, layout: YoloLayout, split: str | None, report: Reporter) -> ReadDataset:
    """Read YOLO label files; an image without one has no objects.

    A line is `class cx cy width height`, with keypoints after them or not, or `class x1 y1 x2 y2 …` for a polygon;
    `yolo_lines.line_rule` tells which. Keypoints are not kept. Class numbers may have gaps; numbers of the same name
    become one class.

    Args:
        name: Name of the dataset.
        layout: From `find`.
        split: The only split to read; None reads all.
        report: Called with each fault; the entry is skipped if it returns.
    """
    images = only_split(layout.images, split, name)
    for key, faults in layout.faults.items():
        for finding in faults if split in (None, key) else ():
            report(finding)
    for repeated, count in Counter(layout.class_names.values()).items():
        if count > 1:
            report(Finding("category-twin", f"{count} class numbers have the name {repeated!r}", layout.source))
    labels = {path: label_file(path, layout.root) for paths in images.values() for path in paths}
    lines = {file: list(_lines(file, report)) for file in dict.fromkeys(labels.values()) if file.is_file()}
    numbers = [parsed[1] for part in lines.values() for _, columns in part if (parsed := _parsed(columns))]
    rule = line_rule(numbers, layout.kpt_shape, layout.task, layout.source)
    if rule.in_pixels:
        message = "the numbers must lie between 0 and 1, but most of the dataset's boxes are plainly in pixels"
        report(Finding("box-in-pixels", message, layout.source))
    reader = _Reader(layout, rule, report)
    splits = {
        key: tuple(
            image
            for path in paths
            if (image := reader.image(path, labels[path], lines.get(labels[path], []))) is not None
        )
        for key, paths in images.items()
    }
    return ReadDataset(reader.class_names, splits)


class _Reader:
    """Turn lines into records, with ids by counting."""

    def __init__(self, layout: YoloLayout, rule: LineRule, report: Reporter) -> None:
        self.class_names = tuple(dict.fromkeys(layout.class_names.values()))
        self.classes = {number: self.class_names.index(name) for number, name in layout.class_names.items()}
        self.rule = rule
        self.report = report
        self.images = 0
        self.objects = 0

    def image(self, path: Path, labels: Path, lines: Sequence[Line]) -> ImageRecord | None:
        id = self.images
        self.images += 1
        try:
            size = upright_size(path)
        except (OSError, ValueError) as error:
            code = "image-unreadable" if path.exists() else "image-missing"
            self.report(Finding(code, f"the image's size is needed: {error}", path, id))
            return None
        objects = []
        for number, columns in lines:
            self.objects += 1
            try:
                objects.append(self._object(columns, f"line {number}", labels, id, size))
            except _Fault as fault:
                self.report(Finding(fault.code, str(fault), labels, id, self.objects, f"line {number}"))
        return ImageRecord(id, path, *size, tuple(objects), source=labels)

    def _object(self, columns: list[str], place: str, file: Path, image_id: int, size: tuple[int, int]) -> ObjectRecord:
        parsed = _parsed(columns)
        if parsed is None:
            shown = " ".join(columns)
            raise _Fault("annotation-malformed", f"a line must hold a class number and coordinates, got {shown[:80]!r}")
        label, numbers = parsed
        problem = self.rule.problem(numbers)
        if problem is not None:
            raise _Fault("annotation-malformed", problem)
        if label not in self.classes:
            raise _Fault("category-unknown", f"class {columns[0]} is not among the {len(self.classes)} declared")
        shape = self.rule.shape(numbers)
        if shape.is_plainly_in_pixels and not self.rule.in_pixels:
            message = f"coordinates must lie between 0 and 1, got {numbers}"
            self.report(Finding("box-in-pixels", message, file, image_id, self.objects, place))
        elif not self.rule.in_pixels:
            shape = shape.scaled(*size)
        return ObjectRecord(
            id=self.objects,
            label=self.classes[int(label)],
            box_xywh_px=shape.box,
            area=polygon_area(shape.polygon) if shape.polygon else shape.box[2] * shape.box[3],
            segmentation=[list(shape.polygon)] if shape.polygon else None,
            place=place,
        )


class _Fault(ValueError):
    """A line that is left out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _lines(file: Path, report: Reporter) -> Iterator[Line]:
    """Read the lines of a label file that hold anything."""
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        report(Finding("annotation-malformed", f"cannot be read: {error}", file))
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.split()


def _parsed(columns: list[str]) -> tuple[float, list[float]] | None:
    """Return the class and the numbers of a line; None if a column is no number."""
    try:
        label, *numbers = map(float, columns)
    except ValueError:
        return None
    return label, numbers
