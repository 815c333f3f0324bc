"""Frames of boxes: the pixels of the image file, or another size that the annotations state."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

from transformers_detr.data.field_values import Box

if TYPE_CHECKING:  # the command line needs `Frame` without loading torch
    from transformers_detr.data.image_inspection import ImageFacts
    from transformers_detr.data.records import ImageRecord

FRAME_SLACK_PX = 1.0
"""Boxes may reach this far beyond the frame: annotators round."""

BEYOND_SHARE = 0.05
"""A box that reaches beyond a frame by this share of its side was not drawn in it; less may be careless."""


class Frame(StrEnum):
    """Frame that the boxes of an image were drawn in."""

    IMAGE = "image"
    STATED = "stated"


class Mismatch(Enum):
    """Relation of a stated size to the image: before its EXIF rotation, sides swapped, or any other."""

    UNROTATED = auto()
    SWAPPED = auto()
    OTHER = auto()


def size_mismatch(record: ImageRecord, facts: ImageFacts) -> Mismatch | None:
    """Return how the stated size of an image contradicts its file; None if it does not."""
    stated = (record.height, record.width)
    if facts.problem is not None or stated == facts.upright:
        return None
    if stated == facts.stored:
        return Mismatch.UNROTATED
    return Mismatch.SWAPPED if stated == facts.upright[::-1] else Mismatch.OTHER


def find_frames(
    pairs: Sequence[tuple[ImageRecord, ImageFacts]], undecided: Frame | None = None
) -> dict[int, Frame | None]:
    """Decide in which frame the boxes were drawn, for the images whose stated size contradicts the file.

    Boxes that fit one frame and reach far beyond the other decide. Where all fit both, the other images of the split
    with the same mismatch decide, if they agree.

    Args:
        pairs: The images of a split, and the facts about their files.
        undecided: Frame of the images that nothing decides.

    Returns:
        The frame by image id. None: nothing decides; or the boxes fit the stated size, whose sides are those of the
        image swapped, so that the image was turned in an unknown direction.
    """
    possible: dict[int, tuple[Mismatch, set[Frame]]] = {}
    evidence: dict[Mismatch, set[Frame]] = defaultdict(set)
    for record, facts in pairs:
        mismatch = size_mismatch(record, facts)
        if mismatch is not None:
            frames = _possible_frames(record, facts)
            possible[record.id] = mismatch, frames
            if len(frames) == 1:
                evidence[mismatch] |= frames
    found: dict[int, Frame | None] = {}
    empty = {record.id for record, _ in pairs if not record.objects}
    for id, (mismatch, frames) in possible.items():
        if len(frames) > 1 and len(evidence[mismatch]) == 1:
            frames = evidence[mismatch]
        frame = next(iter(frames)) if len(frames) == 1 else undecided
        if id in empty:
            frame = Frame.IMAGE
        found[id] = None if (mismatch, frame) == (Mismatch.SWAPPED, Frame.STATED) else frame
    return found


def in_frame(record: ImageRecord, facts: ImageFacts, frame: Frame | None) -> ImageRecord:
    """Return an image with the size of the frame of its boxes."""
    return replace(record, height=facts.upright[0], width=facts.upright[1]) if frame is Frame.IMAGE else record


def _possible_frames(record: ImageRecord, facts: ImageFacts) -> set[Frame]:
    """Return the frames that no box contradicts; empty if the boxes contradict each other."""
    sizes = {Frame.IMAGE: facts.upright, Frame.STATED: (record.height, record.width)}
    boxes = [item.box_xywh_px for item in record.objects if all(map(math.isfinite, item.box_xywh_px))]
    reach = [{frame: _reach_beyond(box, *size) for frame, size in sizes.items()} for box in boxes]
    excluded = {
        frame
        for frame, other in ((Frame.IMAGE, Frame.STATED), (Frame.STATED, Frame.IMAGE))
        if any(
            box[other] <= FRAME_SLACK_PX and box[frame] > max(FRAME_SLACK_PX, BEYOND_SHARE * min(sizes[frame]))
            for box in reach
        )
    }
    return set(sizes) - excluded


def _reach_beyond(box: Box, height: int, width: int) -> float:
    """Return by how many pixels a box reaches beyond a frame; negative if it lies within."""
    x, y, w, h = box
    return max(-x, -y, x + w - width, y + h - height)


def are_relative(records: Iterable[ImageRecord]) -> bool:
    """Return whether most different boxes of a split are relative to their images instead of in pixels."""
    boxes = {item.box_xywh_px for record in records for item in record.objects}
    valid = [box for box in boxes if all(map(math.isfinite, box)) and min(box[2:]) > 0]
    return sum(map(within_one_pixel, valid)) * 2 > len(valid)


def within_one_pixel(box: Box) -> bool:
    """Return whether a box lies within the first pixel of the image, as a relative box does."""
    x, y, w, h = box
    return min(x, y) >= 0 and max(x + w, y + h) <= 1 + 1e-3
