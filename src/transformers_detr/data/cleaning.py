"""Corrected copies of datasets: faults repaired or left out, the source unchanged."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from transformers_detr.atomic_io import atomic_folder
from transformers_detr.data.box_frames import (
    FRAME_SLACK_PX,
    Frame,
    Mismatch,
    are_relative,
    find_frames,
    in_frame,
    size_mismatch,
)
from transformers_detr.data.checks import (
    Examined,
    has_wrong_area,
    judge_box,
    misfit_of_mask,
    repeated_images,
    repeated_objects,
)
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.file_discovery import ORIENTATION_TAG
from transformers_detr.data.image_inspection import ImageFacts
from transformers_detr.data.records import ImageRecord, ObjectRecord
from transformers_detr.inference.sources import IMAGE_SUFFIXES
from transformers_detr.model.coco_masks_detr import CocoRle, decode_rle, encode_rle

Point = tuple[float, float]
Move = Callable[[float, float], Point]
"""Maps a point of the image to its new place, in pixels."""


def cleaned(dataset: DetectionDataset, examined: Examined, boxes_in: Frame | None = None) -> DetectionDataset:
    """Return a dataset with its faults repaired as `KINDS` says; objects are renumbered from 1.

    Args:
        dataset: The dataset.
        examined: Its records with the facts about their image files, by split.
        boxes_in: Frame of the boxes that fit both the image and another stated size; None leaves such images unchanged.
    """
    splits: dict[str, dict[int, ImageRecord]] = {}
    for split, pairs in examined.items():
        frames = find_frames(pairs, boxes_in)
        relative = are_relative(record for record, _ in pairs)
        splits[split] = {
            record.id: _clean_image(record, facts, frames.get(record.id), relative)
            for record, facts in pairs
            if facts.problem is None
        }
    for _, record, split, other_split, other in repeated_images(examined):
        _merge(splits[split], record.id, splits[other_split], other.id)
    return replace(
        dataset, splits={split: tuple(_numbered(records.values())) for split, records in splits.items()}, findings=()
    )


def _merge(records: dict[int, ImageRecord], id: int, others: dict[int, ImageRecord], other_id: int) -> None:
    """Leave out an image that is in the dataset elsewhere, unless an object would be lost.

    Two entries of one file in one split become one image with the objects of both.
    """
    record, other = records[id], others[other_id]
    if (record.height, record.width) != (other.height, other.width):
        return
    missing = tuple(item for item in record.objects if not any(_same(item, known) for known in other.objects))
    if missing and (records is not others or record.path != other.path or record.read_bytes is not None):
        return
    others[other_id] = replace(other, objects=(*other.objects, *missing))
    del records[id]


def _same(one: ObjectRecord, other: ObjectRecord) -> bool:
    distances = (abs(a - b) for a, b in zip(one.box_xywh_px, other.box_xywh_px, strict=True))
    return one.label == other.label and one.iscrowd == other.iscrowd and max(distances) <= FRAME_SLACK_PX


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
            named: list[ImageRecord] = []
            taken: set[str] = set()
            for record in records:
                encoded = record.encoded()
                name = _free_name(_file_name(record, encoded), taken)
                (partial / split / name).write_bytes(encoded)
                named.append(replace(record, path=Path(name)))
                done += 1
                if progress is not None:
                    progress(done, total)
            content = replace(dataset, splits={split: tuple(named)}).to_coco(split)
            file = partial / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(content), encoding="utf-8")


def _file_name(record: ImageRecord, encoded: bytes) -> str:
    if record.path.suffix.lower() in IMAGE_SUFFIXES:
        return record.path.name
    with Image.open(io.BytesIO(encoded)) as image:
        return f"{record.path.name}.{(image.format or 'png').lower()}"


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name that no other file of the folder has, on any system, and add it to `taken`."""
    names = chain([name], (f"{number}_{name}" for number in count(2)))
    free = next(name for name in names if name.casefold() not in taken)
    taken.add(free.casefold())
    return free


def _numbered(records: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Number the objects of all records from 1."""
    count = 0
    numbered = []
    for record in records:
        ids = range(count + 1, count + 1 + len(record.objects))
        count += len(record.objects)
        objects = (replace(item, id=id) for id, item in zip(ids, record.objects, strict=True))
        numbered.append(replace(record, objects=tuple(objects)))
    return numbered


def _clean_image(record: ImageRecord, facts: ImageFacts, frame: Frame | None, relative: bool) -> ImageRecord:
    """Return an image with its faults repaired; unchanged if nobody knows the frame of its boxes."""
    mismatch = size_mismatch(record, facts)
    if mismatch is not None and frame is None:
        return record
    record = in_frame(record, facts, frame)
    surplus = {id(item) for item in repeated_objects(record)}
    objects = [_without_bad_mask(record, item) for item in record.objects if id(item) not in surplus]
    repaired = (_clean_box(item, record.height, record.width, relative) for item in objects)
    kept = [item for item in repaired if item is not None]
    if frame is Frame.STATED:
        move = _upright(facts) if mismatch is Mismatch.UNROTATED else _scaled(record, facts)
        kept = [_moved(item, move, facts, mismatch) for item in kept]
    height, width = facts.upright
    return replace(record, height=height, width=width, objects=tuple(kept))


def _clean_box(item: ObjectRecord, height: int, width: int, relative: bool) -> ObjectRecord | None:
    """Return the object with a box inside the image and a matching area; None if it is left out."""
    code, _ = judge_box(item.box_xywh_px, height, width, relative) or (None, "")
    x, y, w, h = item.box_xywh_px
    if code == "box-relative":
        scaled = replace(item, box_xywh_px=(x * width, y * height, w * width, h * height), area=w * width * h * height)
        return _clean_box(scaled, height, width, relative=False)
    if code == "box-beyond-frame":
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        item = replace(item, box_xywh_px=(left, top, right - left, bottom - top))
    elif code is not None:
        return None
    return replace(item, area=_box_area(item)) if has_wrong_area(item) else item


def _box_area(item: ObjectRecord) -> float:
    return item.box_xywh_px[2] * item.box_xywh_px[3]


def _without_bad_mask(record: ImageRecord, item: ObjectRecord) -> ObjectRecord:
    return item if misfit_of_mask(record, item) is None else replace(item, segmentation=None)


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


def _moved(item: ObjectRecord, move: Move, facts: ImageFacts, mismatch: Mismatch | None) -> ObjectRecord:
    """Move an object with its mask."""
    x, y, width, height = item.box_xywh_px
    (left, top), (right, bottom) = move(x, y), move(x + width, y + height)
    box = (min(left, right), min(top, bottom), abs(right - left), abs(bottom - top))
    mask = item.segmentation
    if isinstance(mask, list):
        mask = [[value for pair in zip(line[0::2], line[1::2], strict=True) for value in move(*pair)] for line in mask]
    elif mask is not None:
        mask = _moved_run_lengths(mask, facts, mismatch)
    share = item.area / (width * height)
    return replace(item, box_xywh_px=box, area=share * box[2] * box[3], segmentation=mask)


def _moved_run_lengths(mask: Any, facts: ImageFacts, mismatch: Mismatch | None) -> CocoRle:
    image = Image.fromarray(decode_rle(mask).astype(np.uint8))
    if mismatch is Mismatch.UNROTATED:
        image.getexif()[ORIENTATION_TAG] = facts.orientation
        image = ImageOps.exif_transpose(image)
    else:
        image = image.resize(facts.upright[::-1], Image.Resampling.NEAREST)
    return encode_rle(np.asarray(image))
