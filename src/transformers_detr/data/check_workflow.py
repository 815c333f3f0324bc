"""Check a dataset for faults before training, and write a corrected copy."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers_detr.atomic_io import atomic_file
from transformers_detr.data.box_frames import Frame
from transformers_detr.data.checks import (
    Examined,
    check_classes,
    check_ids,
    check_repeated_images,
    check_split,
    check_splits,
    check_unannotated_files,
    class_counts,
)
from transformers_detr.data.cleaning import cleaned, write_coco
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import KINDS, DatasetError, Finding, Severity
from transformers_detr.data.image_inspection import examine_images
from transformers_detr.model.resize_detr import resized_size

CELL_BINS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Limits of the box-size histogram, in cells of the feature map."""

PUBLISHED_SIZE: Mapping[str, int] = {"shortest_edge": 800, "longest_edge": 1333}
"""Image size of the published checkpoints."""


@dataclass(frozen=True)
class SplitStatistics:
    """Counts of a split; `class_counts` is the number of objects of each class id."""

    images: int
    empty_images: int
    objects: int
    crowds: int
    most_objects: int
    class_counts: tuple[int, ...]


@dataclass(frozen=True)
class CheckReport:
    """Findings and statistics of a dataset.

    Attributes:
        name: Folder, file or Hub name of the dataset.
        findings: All faults, the worst kinds first.
        dataset: The records that could be read; None if nothing could.
        examined: The records and the facts about their image files, by split.
        splits: Statistics of each split.
        box_cells: Histogram of the objects' sides after resizing, in cells of the feature map: "< 0.25",
            "0.25–0.5", …
    """

    name: str
    findings: tuple[Finding, ...]
    dataset: DetectionDataset | None
    examined: Examined
    splits: Mapping[str, SplitStatistics]
    box_cells: Mapping[str, int]

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(severity)} {severity.value}s" for severity in Severity)
        return f"CheckReport({self.name!r}: {counts})"

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make training fail or spoil it."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that may spoil training."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)

    def cleaned(self, boxes_in: Frame | None = None) -> DetectionDataset:
        """Return the dataset with its faults repaired or left out, as `KINDS` says for each.

        Args:
            boxes_in: Frame of the boxes that do not tell whether they fit the image or another stated size. None
                leaves these images unchanged.

        Raises:
            DatasetError: If the dataset could not be read.
        """
        if self.dataset is None:
            raise DatasetError(str(self.findings[0]))
        return cleaned(self.dataset, self.examined, boxes_in)

    def fix(
        self,
        folder: str | Path,
        progress: Callable[[int, int], None] | None = None,
        *,
        boxes_in: Frame | None = None,
    ) -> DetectionDataset:
        """Write a corrected copy in COCO's layout. The source is not changed.

        Args:
            folder: Folder to make; it must not exist.
            progress: Called with the number of images written and their total.
            boxes_in: As in `cleaned`.

        Returns:
            The copy.

        Raises:
            DatasetError: If the dataset could not be read.
            FileExistsError: If `folder` exists.
        """
        write_coco(self.cleaned(boxes_in), Path(folder), progress)
        return DetectionDataset.load(folder, report=lambda finding: None)

    def save(self, path: str | Path) -> None:
        """Write all findings and statistics as JSON, atomically."""
        with atomic_file(Path(path)) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    def count(self, severity: Severity) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def by_code(self) -> dict[str, list[Finding]]:
        """Return the findings of each kind, the worst kinds first."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(finding.code, []).append(finding)
        return groups

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dictionaries and lists."""
        return {
            "dataset": self.name,
            "format": self.dataset.format if self.dataset else None,
            "class_names": list(self.dataset.class_names) if self.dataset else [],
            "splits": {split: asdict(statistics) for split, statistics in self.splits.items()},
            "box_cells": dict(self.box_cells),
            "counts": {severity.value: self.count(severity) for severity in Severity},
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity.value,
                    "message": finding.message,
                    "file": str(finding.file),
                    "place": finding.place,
                    "image_id": finding.image_id,
                    "annotation_id": finding.annotation_id,
                    "repair": KINDS[finding.code].repair,
                }
                for finding in self.findings
            ],
        }


def check_dataset(
    source: str | Path | DetectionDataset,
    *,
    quick: bool = False,
    num_queries: int = 100,
    stride: int = 32,
    size: Mapping[str, int] = PUBLISHED_SIZE,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check a dataset for every kind of fault in `KINDS`.

    Args:
        source: A folder, file or Hub name, or a loaded dataset with the findings it was loaded with. Nothing is read
            again: of a dataset loaded with the default `report`, which stops at the first error, those are warnings.
        quick: Read only the headers of the images, and no masks. Damaged and repeated images are not found then.
        num_queries: Queries of the model: the most objects it can find in an image.
        stride: Pixels per cell of the feature map.
        size: Size to which the image processor resizes.
        progress: Called with the number of images examined and their total.

    Returns:
        The report. A dataset that cannot be read at all gives one with the finding "dataset-unreadable".

    Raises:
        OSError: If an image file disappears or the disk fails while it is examined.
    """
    findings: list[Finding] = []
    try:
        dataset = (
            source if isinstance(source, DetectionDataset) else DetectionDataset.load(source, report=findings.append)
        )
    except DatasetError as error:
        findings.append(Finding("dataset-unreadable", str(error), Path(str(source))))
        return CheckReport(str(source), tuple(findings), None, {}, {}, {})
    findings = list(dataset.findings)
    examined = _examine(dataset, decode=not quick, progress=progress)
    for split, pairs in examined.items():
        findings += check_split(pairs, num_queries, not quick, dataset.findings)
        findings += check_ids(dataset.splits[split])
    findings += check_repeated_images(examined)
    findings += check_unannotated_files(dataset)
    findings += check_splits(dataset)
    findings += check_classes(dataset)
    box_cells = _box_cells(dataset, stride, size)
    findings += _check_box_cells(dataset, box_cells, stride)
    rank = {code: index for index, code in enumerate(sorted(KINDS, key=_gravity))}
    findings.sort(key=lambda finding: rank[finding.code])
    splits = {split: _statistics(dataset, split) for split in dataset.splits}
    ranges = dict(zip(_cell_ranges(), box_cells, strict=True))
    return CheckReport(dataset.name, tuple(findings), dataset, examined, splits, ranges)


def _gravity(code: str) -> int:
    return list(Severity).index(KINDS[code].severity)


def _examine(dataset: DetectionDataset, decode: bool, progress: Callable[[int, int], None] | None) -> Examined:
    total = sum(map(len, dataset.splits.values()))
    before = 0
    examined = {}
    for split, records in dataset.splits.items():
        notify = None if progress is None else _shifted(progress, before, total)
        examined[split] = list(zip(records, examine_images(records, decode, notify), strict=True))
        before += len(records)
    return examined


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, total)


def _statistics(dataset: DetectionDataset, split: str) -> SplitStatistics:
    records = dataset.splits[split]
    counts = class_counts(records)
    return SplitStatistics(
        images=len(records),
        empty_images=sum(not record.objects for record in records),
        objects=sum(len(record.objects) for record in records),
        crowds=sum(item.iscrowd for record in records for item in record.objects),
        most_objects=max((len(record.objects) for record in records), default=0),
        class_counts=tuple(counts[label] for label in range(len(dataset.class_names))),
    )


def _cell_ranges() -> list[str]:
    limits = [f"{limit:g}" for limit in CELL_BINS]
    return [f"< {limits[0]}", *map("{}–{}".format, limits, limits[1:]), f"≥ {limits[-1]}"]


def _box_cells(dataset: DetectionDataset, stride: int, size: Mapping[str, int]) -> tuple[int, ...]:
    """Histogram of the objects' sides, √(width · height) after resizing, in cells of the feature map."""
    counts: Counter[int] = Counter()
    for records in dataset.splits.values():
        for record in records:
            try:
                height, _ = resized_size(record.height, record.width, size)
            except ValueError:  # too elongated to be resized
                continue
            for item in record.objects:
                area = item.box_xywh_px[2] * item.box_xywh_px[3]
                if math.isfinite(area) and area > 0 and not item.iscrowd:
                    cells = math.sqrt(area) * height / record.height / stride
                    counts[sum(cells >= limit for limit in CELL_BINS)] += 1
    return tuple(counts[index] for index in range(len(CELL_BINS) + 1))


def _check_box_cells(dataset: DetectionDataset, box_cells: tuple[int, ...], stride: int) -> list[Finding]:
    below, total = sum(box_cells[: CELL_BINS.index(1.0) + 1]), sum(box_cells)
    if 2 * below <= total:
        return []
    message = f"{below} of {total} objects are smaller than the {stride} pixels of a cell after resizing"
    return [Finding("objects-tiny", message, Path(dataset.name))]
