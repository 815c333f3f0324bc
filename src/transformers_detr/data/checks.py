"""Single checks of a dataset: image files, objects, classes, splits.

Each yields findings and changes nothing. Cleaning uses the same functions, such as `judge_box`.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from transformers_detr.data.box_frames import (
    FRAME_SLACK_PX,
    Frame,
    Mismatch,
    are_relative,
    find_frames,
    in_frame,
    size_mismatch,
    within_one_pixel,
)
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.field_values import Box, shown
from transformers_detr.data.file_discovery import image_files
from transformers_detr.data.findings import Finding
from transformers_detr.data.image_inspection import ImageFacts
from transformers_detr.data.masks import mask_extent, mask_problem
from transformers_detr.data.records import ImageRecord, ObjectRecord
from transformers_detr.hub.class_names import NO_CLASS

LARGEST_RELATIVE = 2.0
"""Numbers of relative boxes are smaller, even where the boxes reach beyond their images."""

MASK_SLACK_PX = 2.0
"""Masks may reach this far beyond their boxes."""

FEW_OBJECTS = 10
"""A class with fewer objects than this in training is called rare."""

SPLIT_ORDER = ("train", "val", "test")
"""An image in two splits is kept in the later one: evaluation images must not be trained on."""

Examined = Mapping[str, Sequence[tuple[ImageRecord, ImageFacts]]]
"""The records of each split with the facts about their image files."""


def judge_box(box_xywh_px: Box, height: int, width: int, relative: bool) -> tuple[str, str] | None:
    """Return code and message of a fault of a box in an image of this size; None without one.

    Args:
        box_xywh_px: The box.
        height: Height of the image.
        width: Width of the image.
        relative: Whether most boxes of the split are relative, though the format wants pixels.
    """
    x, y, w, h = box_xywh_px
    shown = "[" + ", ".join(f"{value:g}" for value in box_xywh_px) + "] (x, y, width, height)"
    if not all(map(math.isfinite, box_xywh_px)):
        return "box-not-finite", f"box {shown}"
    if w < 0 or h < 0:
        return "box-negative", f"box {shown}"
    if w == 0 or h == 0:
        return "box-empty", f"box {shown} has no area"
    frame = f"image of {width}×{height} (width × height)"
    if relative and max(map(abs, box_xywh_px)) < LARGEST_RELATIVE < min(height, width):
        return "box-relative", f"box {shown} is relative, not in pixels of an {frame}"
    if within_one_pixel(box_xywh_px) and min(height, width) > LARGEST_RELATIVE:
        return "box-below-pixel", f"box {shown} lies within one pixel of an {frame}, other boxes are in pixels"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return "box-outside", f"box {shown} lies outside an {frame}"
    beyond = max(-x, -y, x + w - width, y + h - height)
    if beyond > FRAME_SLACK_PX:
        return "box-beyond-frame", f"box {shown} reaches {beyond:g} pixels beyond an {frame}"
    return None


def judge_size(record: ImageRecord, facts: ImageFacts, frame: Frame | None) -> tuple[str, str] | None:
    """Return code and message if the stated size of an image contradicts its file, else None.

    Args:
        record: The image.
        facts: The facts about its file.
        frame: The frame of its boxes, from `find_frames`.
    """
    mismatch = size_mismatch(record, facts)
    if mismatch is None:
        return None
    height, width = facts.upright
    sizes = f"the annotations say {record.width}×{record.height} (width × height), the image has {width}×{height}"
    if mismatch is Mismatch.UNROTATED:
        sizes += f" by its EXIF orientation {facts.orientation}"
    if frame is Frame.IMAGE:
        return "size-misstated", f"{sizes}; the boxes fit the image"
    if frame is Frame.STATED:
        code = "exif-unrotated" if mismatch is Mismatch.UNROTATED else "size-mismatch"
        return code, f"{sizes}; the boxes fit the stated size"
    return "size-ambiguous", f"{sizes}; say which size the boxes mean by --boxes-in image or --boxes-in stated"


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


def misfit_of_mask(record: ImageRecord, item: ObjectRecord) -> str | None:
    """Describe what keeps a segmentation from being a mask of its image; None if it is one, or there is none."""
    size = item.segmentation.get("size") if isinstance(item.segmentation, Mapping) else None
    if item.segmentation is None:
        return None
    if size and size != [record.height, record.width]:
        return f"run lengths of size {shown(size)}, but the image is {[record.height, record.width]}"
    return mask_problem(item.segmentation)


def check_split(
    pairs: Sequence[tuple[ImageRecord, ImageFacts]], num_queries: int, masks: bool, known: Iterable[Finding]
) -> Iterator[Finding]:
    """Check the images of a split, their sizes and their objects.

    Args:
        pairs: The images and the facts about their files.
        num_queries: Queries of the model.
        masks: Whether to check the segmentations.
        known: Findings of the reader, which are not repeated.
    """
    told = {(finding.code, finding.file, finding.image_id) for finding in known}
    frames = find_frames(pairs)
    relative = are_relative(record for record, _ in pairs)
    for record, facts in pairs:
        frame = frames.get(record.id)
        problem = facts.problem or judge_size(record, facts, frame)
        if problem is not None and (problem[0], record.source, record.id) not in told:
            yield Finding(*problem, file=record.path, image_id=record.id)
        yield from _check_objects(in_frame(record, facts, frame), num_queries, masks, relative)


def _check_objects(record: ImageRecord, num_queries: int, masks: bool, relative: bool) -> Iterator[Finding]:
    count = sum(not item.iscrowd for item in record.objects)
    if count > num_queries:
        message = f"{count} objects, but the model has {num_queries} queries"
        yield Finding("too-many-objects", message, record.source, record.id)
    repeated = {id(item) for item in repeated_objects(record)}
    for item in record.objects:
        for code, message in _object_problems(record, item, id(item) in repeated, masks, relative):
            yield Finding(code, message, record.source, record.id, item.id, item.place)


def _object_problems(
    record: ImageRecord, item: ObjectRecord, is_repeated: bool, masks: bool, relative: bool
) -> Iterator[tuple[str, str]]:
    verdict = judge_box(item.box_xywh_px, record.height, record.width, relative)
    if verdict is not None:
        yield verdict
        if verdict[0] != "box-beyond-frame":
            return  # further checks mean nothing for an invalid box
    if is_repeated:
        yield "box-repeated", f"the box {list(item.box_xywh_px)} of class {item.label} came before"
    if has_wrong_area(item):
        yield "area-mismatch", f"area {item.area:g}, but the box is {list(item.box_xywh_px)}"
    if masks and item.segmentation is not None:
        message = misfit_of_mask(record, item)
        if message is not None:
            yield "segmentation-invalid", message
        elif (beyond := _mask_beyond_box(item)) > MASK_SLACK_PX:
            yield "segmentation-outside-box", f"the mask reaches {beyond:g} pixels beyond its box"


def _mask_beyond_box(item: ObjectRecord) -> float:
    """Return how far a valid mask reaches beyond its box, in pixels."""
    left, top, right, bottom = mask_extent(item.segmentation)
    x, y, width, height = item.box_xywh_px
    return max(x - left, y - top, right - x - width, bottom - y - height)


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


def check_unannotated_files(dataset: DetectionDataset) -> Iterator[Finding]:
    """Find image files that no split lists, in the folders of the images and above; one finding per folder."""
    root = Path(dataset.name)
    listed = {record.path for records in dataset.splits.values() for record in records if record.read_bytes is None}
    folders = {path.parent for path in listed}
    folders |= {above for folder in folders for above in folder.parents if above.is_relative_to(root)}
    for folder in sorted(folders):
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
