"""Single checks of a dataset: image files, objects, classes, splits.

Each yields findings and changes nothing. Cleaning uses the same functions, such as `judge_box`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.file_discovery import image_files
from transformers_detr.data.findings import Finding
from transformers_detr.data.image_inspection import ImageFacts
from transformers_detr.data.records import ImageRecord, ObjectRecord
from transformers_detr.hub.published_checkpoints import NO_CLASS
from transformers_detr.model.coco_masks_detr import decode_rle, polygon_problem

FRAME_SLACK_PX = 1.0
"""Boxes may reach this far beyond the frame: annotators round."""

MASK_SLACK_PX = 2.0
"""Masks may reach this far beyond their boxes."""

FEW_OBJECTS = 10
"""A class with fewer objects than this in training is called rare."""

SPLIT_ORDER = ("train", "val", "test")
"""An image in two splits is kept in the later one: evaluation images must not be trained on."""

Examined = Mapping[str, Sequence[tuple[ImageRecord, ImageFacts]]]
"""The records of each split with the facts about their image files."""


def judge_box(box_xywh_px: tuple[float, float, float, float], height: int, width: int) -> tuple[str, str] | None:
    """Return code and message of a fault of a box in an image of this size; None without one."""
    x, y, w, h = box_xywh_px
    shown = "[" + ", ".join(f"{value:g}" for value in box_xywh_px) + "] (x, y, width, height)"
    if not all(map(math.isfinite, box_xywh_px)):
        return "box-not-finite", f"box {shown}"
    if w < 0 or h < 0:
        return "box-negative", f"box {shown}"
    if w == 0 or h == 0:
        return "box-empty", f"box {shown} has no area"
    frame = f"image of {width}×{height} (width × height)"
    if x >= 0 and y >= 0 and x + w <= 1 + 1e-3 and y + h <= 1 + 1e-3 and min(height, width) > 2:
        return "box-relative", f"box {shown} is relative, not in pixels of an {frame}"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "box-outside", f"box {shown} lies outside an {frame}"
    beyond = max(-x, -y, x + w - width, y + h - height)
    if beyond > FRAME_SLACK_PX:
        return "box-beyond-frame", f"box {shown} reaches {beyond:g} pixels beyond an {frame}"
    return None


def judge_size(record: ImageRecord, facts: ImageFacts) -> tuple[str, str] | None:
    """Return code and message if an image's size disagrees with its annotations, else None."""
    said = (record.height, record.width)
    if said == facts.upright:
        return None
    shown = " and ".join(f"{width}×{height}" for height, width in (said, facts.upright))
    if said == facts.stored:
        rotated = f"annotated as {shown.replace(' and ', ', but shown as ')}"
        return "exif-unrotated", f"{rotated} (width × height) by its EXIF orientation {facts.orientation}"
    return "size-mismatch", f"annotations and image are {shown} (width × height)"


def repeated_objects(record: ImageRecord) -> Iterator[ObjectRecord]:
    """Yield the objects that repeat the class and box of an earlier one of the image."""
    seen = set()
    for item in record.objects:
        key = (item.label, item.box_xywh_px)
        if key in seen:
            yield item
        seen.add(key)


def has_wrong_area(item: ObjectRecord) -> bool:
    """Return whether the area is not positive, or exceeds the box by more than rounding."""
    _, _, width, height = item.box_xywh_px
    return not 0 < item.area <= (width + 1) * (height + 1)


def mask_problem(record: ImageRecord, item: ObjectRecord) -> str | None:
    """Describe what keeps a segmentation from being a mask of its image; None if it is one."""
    segmentation = item.segmentation
    if isinstance(segmentation, Mapping):
        try:
            mask = decode_rle(dict(segmentation))
        except (KeyError, TypeError, ValueError) as error:
            return f"run lengths: {error}"
        if mask.shape != (record.height, record.width):
            return f"run lengths of size {mask.shape}, but the image is {(record.height, record.width)}"
        return None if mask.any() else "run lengths of an empty mask"
    if not isinstance(segmentation, list) or not segmentation:
        return f"must be polygons or run lengths, got {segmentation!r}"
    return next(filter(None, map(polygon_problem, segmentation)), None)


def check_image(record: ImageRecord, facts: ImageFacts, num_queries: int, masks: bool) -> Iterator[Finding]:
    """Check one image, its size and its objects; `masks` includes the segmentations."""
    problem = facts.problem or judge_size(record, facts)
    if problem is not None:
        yield Finding(*problem, file=record.path, image_id=record.id)
    count = sum(not item.iscrowd for item in record.objects)
    if count > num_queries:
        message = f"{count} objects, but the model has {num_queries} queries"
        yield Finding("too-many-objects", message, record.source, record.id)
    repeated = {id(item) for item in repeated_objects(record)}
    for item in record.objects:
        for code, message in _object_problems(record, item, id(item) in repeated, masks):
            yield Finding(code, message, record.source, record.id, item.id, item.place)


def _object_problems(
    record: ImageRecord, item: ObjectRecord, is_repeated: bool, masks: bool
) -> Iterator[tuple[str, str]]:
    verdict = judge_box(item.box_xywh_px, record.height, record.width)
    if verdict is not None:
        yield verdict
        if verdict[0] != "box-beyond-frame":
            return  # further checks mean nothing for an invalid box
    if is_repeated:
        yield "box-repeated", f"the box {list(item.box_xywh_px)} of class {item.label} came before"
    if has_wrong_area(item):
        yield "area-mismatch", f"area {item.area:g}, but the box is {list(item.box_xywh_px)}"
    if masks and item.segmentation is not None:
        message = mask_problem(record, item)
        if message is not None:
            yield "segmentation-invalid", message
        elif (beyond := _mask_beyond_box(item)) > MASK_SLACK_PX:
            yield "segmentation-outside-box", f"the mask reaches {beyond:g} pixels beyond its box"


def _mask_beyond_box(item: ObjectRecord) -> float:
    """Return how far a valid mask reaches beyond its box, in pixels."""
    if isinstance(item.segmentation, Mapping):
        rows, columns = np.nonzero(decode_rle(dict(item.segmentation)))
        left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    else:
        xs, ys = (np.concatenate([polygon[axis::2] for polygon in item.segmentation]) for axis in (0, 1))
        left, right, top, bottom = xs.min(), xs.max(), ys.min(), ys.max()
    x, y, width, height = item.box_xywh_px
    return float(max(x - left, y - top, right - x - width, bottom - y - height))


def check_ids(records: Sequence[ImageRecord]) -> Iterator[Finding]:
    """Find annotation ids that occur twice in a split."""
    seen: dict[int, int] = {}
    for record in records:
        for item in record.objects:
            if item.id in seen:
                message = f"this id belongs to an object of image {seen[item.id]} too"
                yield Finding("annotation-id-repeated", message, record.source, record.id, item.id, item.place)
            seen.setdefault(item.id, record.id)


def repeated_images(examined: Examined) -> Iterator[tuple[str, ImageRecord, str, str, ImageRecord]]:
    """Find images to leave out, because the dataset holds the same image elsewhere.

    Images are the same if their pixels are equal, or, where these were not decoded, their paths.

    Yields:
        Code, the image and its split, then the split and the image that is kept: the first one of a split,
        and of two splits the later in `SPLIT_ORDER`.
    """
    ordered = sorted(examined, key=lambda split: SPLIT_ORDER.index(split) if split in SPLIT_ORDER else -1)
    kept: dict[str, tuple[str, ImageRecord]] = {}
    for split in reversed(ordered):
        for record, facts in examined[split]:
            if facts.problem is not None:
                continue
            key = facts.digest or str(record.path.resolve())
            if key in kept:
                other_split, other = kept[key]
                code = "image-repeated" if other_split == split else "image-in-two-splits"
                yield code, record, split, other_split, other
            kept.setdefault(key, (split, record))


def check_repeated_images(examined: Examined) -> Iterator[Finding]:
    """Find images that are in the dataset twice."""
    for code, record, split, other_split, other in repeated_images(examined):
        message = f"in {split}; the same image as {other.path} (image {other.id}) in {other_split}"
        yield Finding(code, message, record.path, record.id)


def check_unannotated_files(splits: Iterable[Sequence[ImageRecord]]) -> Iterator[Finding]:
    """Find image files that no split lists, in the folders of the images; one finding per folder."""
    listed = {record.path for records in splits for record in records if record.read_bytes is None}
    for folder in sorted({path.parent for path in listed}):
        others = [path.name for path in image_files(folder) if path not in listed] if folder.is_dir() else []
        if others:
            shown = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
            yield Finding("image-unannotated", f"{len(others)} image files without an entry: {shown}", folder)


def check_classes(dataset: DetectionDataset) -> Iterator[Finding]:
    """Find classes that do not occur, occur too rarely or in the wrong split, or differ in spelling only."""
    source = Path(dataset.name)
    counts = {split: class_counts(records) for split, records in dataset.splits.items()}
    for label, name in dataset.id2label.items():
        if name == NO_CLASS:
            continue
        present = [split for split in counts if counts[split][label]]
        if not present:
            yield Finding("category-unused", f"class {label} {name!r} has no object", source)
        elif "train" in counts and "train" not in present:
            message = f"class {label} {name!r} occurs in {', '.join(present)}, but not in train"
            yield Finding("category-not-trained", message, source)
        elif "train" in counts and counts["train"][label] < FEW_OBJECTS:
            message = f"class {label} {name!r} has {counts['train'][label]} objects in train"
            yield Finding("category-rare", message, source)
    spellings = defaultdict(list)
    for name in dataset.class_names:
        if name != NO_CLASS:
            spellings[re.sub(r"[\W_]", "", name.casefold())].append(name)
    for names in spellings.values():
        if len(names) > 1:
            yield Finding("category-similar", f"classes {', '.join(map(repr, names))}", source)


def check_splits(dataset: DetectionDataset) -> Iterator[Finding]:
    """Find splits without images or objects."""
    for split, records in dataset.splits.items():
        if not any(record.objects for record in records):
            yield Finding("split-empty", f"{split}: {len(records)} images, no objects", Path(dataset.name))


def class_counts(records: Iterable[ImageRecord]) -> Counter[int]:
    """Count the objects of each class id."""
    return Counter(item.label for record in records for item in record.objects)
