"""Corrected copies of datasets: faults repaired or left out, the source unchanged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from transformers_detr.atomic_io import atomic_folder
from transformers_detr.data.checks import (
    Examined,
    has_wrong_area,
    judge_box,
    judge_size,
    mask_problem,
    repeated_images,
    repeated_objects,
)
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.image_inspection import ImageFacts
from transformers_detr.data.records import ImageRecord, ObjectRecord
from transformers_detr.inference.sources import IMAGE_SUFFIXES

Point = tuple[float, float]
Move = Callable[[float, float], Point]
"""Maps a point of the image to its new place, in pixels."""


def cleaned(dataset: DetectionDataset, examined: Examined) -> DetectionDataset:
    """Return a dataset with its faults repaired as `KINDS` says; objects are renumbered from 1.

    Args:
        dataset: The dataset.
        examined: Its records with the facts about their image files, by split.
    """
    surplus = {(split, record.id) for _, record, split, _, _ in repeated_images(examined)}
    splits = {}
    for split, pairs in examined.items():
        records = [
            _clean_image(record, facts)
            for record, facts in pairs
            if facts.problem is None and (split, record.id) not in surplus
        ]
        splits[split] = tuple(_numbered(records))
    return replace(dataset, splits=splits, findings=())


def write_coco(dataset: DetectionDataset, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write a dataset in COCO's layout: `annotations/instances_train.json`, `train/…`, and so on.

    Image files are copied unchanged. The folder is written atomically.

    Args:
        dataset: The dataset.
        folder: Folder to make; it must not exist.
        progress: Called with the number of images written and their total.

    Raises:
        FileExistsError: If `folder` exists.
    """
    total, done = sum(map(len, dataset.splits.values())), 0
    with atomic_folder(folder) as partial:
        (partial / "annotations").mkdir()
        for split, records in dataset.splits.items():
            (partial / split).mkdir()
            named: dict[str, ImageRecord] = {}
            for record in records:
                encoded = record.encoded()
                name = _file_name(record, encoded)
                if name in named:
                    name = f"{record.id}_{name}"
                (partial / split / name).write_bytes(encoded)
                named[name] = replace(record, path=Path(name))
                done += 1
                if progress is not None:
                    progress(done, total)
            content = replace(dataset, splits={split: tuple(named.values())}).to_coco(split)
            file = partial / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(content), encoding="utf-8")


def _file_name(record: ImageRecord, encoded: bytes) -> str:
    if record.path.suffix.lower() in IMAGE_SUFFIXES:
        return record.path.name
    with Image.open(io.BytesIO(encoded)) as image:
        return f"{record.path.name}.{(image.format or 'png').lower()}"


def _numbered(records: list[ImageRecord]) -> list[ImageRecord]:
    """Number the objects of all records from 1."""
    count = 0
    numbered = []
    for record in records:
        ids = range(count + 1, count + 1 + len(record.objects))
        count += len(record.objects)
        objects = (replace(item, id=id) for id, item in zip(ids, record.objects, strict=True))
        numbered.append(replace(record, objects=tuple(objects)))
    return numbered


def _clean_image(record: ImageRecord, facts: ImageFacts) -> ImageRecord:
    height, width = facts.upright
    surplus = {id(item) for item in repeated_objects(record)}
    objects = [_without_bad_mask(record, item) for item in record.objects if id(item) not in surplus]
    repaired = (_clean_box(item, record.height, record.width) for item in objects)
    kept = [item for item in repaired if item is not None]
    verdict = judge_size(record, facts)
    if verdict is not None:
        move = _upright(facts) if verdict[0] == "exif-unrotated" else _scaled(record, facts)
        kept = [_moved(item, move) for item in kept]
    return replace(record, height=height, width=width, objects=tuple(kept))


def _clean_box(item: ObjectRecord, height: int, width: int) -> ObjectRecord | None:
    """Return the object with a box inside the image and a matching area; None if it is left out."""
    code, _ = judge_box(item.box_xywh_px, height, width) or (None, "")
    x, y, w, h = item.box_xywh_px
    if code == "box-relative":
        item = replace(item, box_xywh_px=(x * width, y * height, w * width, h * height))
    elif code == "box-beyond-frame":
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        item = replace(item, box_xywh_px=(left, top, right - left, bottom - top))
    elif code is not None:
        return None
    return replace(item, area=_box_area(item)) if has_wrong_area(item) or code == "box-relative" else item


def _box_area(item: ObjectRecord) -> float:
    return item.box_xywh_px[2] * item.box_xywh_px[3]


def _without_bad_mask(record: ImageRecord, item: ObjectRecord) -> ObjectRecord:
    if item.segmentation is None or mask_problem(record, item) is None:
        return item
    return replace(item, segmentation=None)


def _upright(facts: ImageFacts) -> Move:
    """Return the move from the stored image to the upright one, for EXIF orientations 5 to 8."""
    height, width = facts.stored

    def move(x: float, y: float) -> Point:
        mirrored_x = x if facts.orientation in (5, 6) else width - x
        mirrored_y = y if facts.orientation in (5, 8) else height - y
        return mirrored_y, mirrored_x

    return move


def _scaled(record: ImageRecord, facts: ImageFacts) -> Move:
    """Return the move from the annotated size to the size of the image file."""
    height, width = facts.upright
    return lambda x, y: (x * width / record.width, y * height / record.height)


def _moved(item: ObjectRecord, move: Move) -> ObjectRecord:
    """Move an object with its polygons; run lengths are left out."""
    x, y, width, height = item.box_xywh_px
    (left, top), (right, bottom) = move(x, y), move(x + width, y + height)
    box = (min(left, right), min(top, bottom), abs(right - left), abs(bottom - top))
    polygons = None
    if isinstance(item.segmentation, list):
        polygons = [
            [value for pair in zip(line[0::2], line[1::2], strict=True) for value in move(*pair)]
            for line in item.segmentation
        ]
    share = item.area / (width * height)
    return replace(item, box_xywh_px=box, area=share * box[2] * box[3], segmentation=polygons)
