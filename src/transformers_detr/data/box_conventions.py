"""Boxes given in another convention than that of their format, over a whole split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transformers_detr.data.box_frames import BEYOND_SHARE, FRAME_SLACK_PX
from transformers_detr.data.field_values import Box
from transformers_detr.data.findings import Finding, Reporter

if TYPE_CHECKING:  # the registry of readers is loaded without torch
    from transformers_detr.data.records import ImageRecord, ObjectRecord

Convention = Literal["corner and size", "center and size", "two corners"]

_MISFIT_SHARE = 0.2
"""Share of the boxes that must be impossible as the format reads them; among correct corners half are."""


def _read_as_size(box: Box) -> Box:
    """Take the width and height of a box for its second corner."""
    x, y, right, bottom = box
    return x, y, right - x, bottom - y


def _read_as_center(box: Box) -> Box:
    """Take the numbers that were read as center and size for two corners."""
    x, y, width, height = box
    return _read_as_size((x + width / 2, y + height / 2, width, height))


def _read_as_corners(box: Box) -> Box:
    """Take the second corner of a box for its width and height."""
    x, y, width, height = box
    return x, y, x + width, y + height


_MISTAKES: Mapping[Convention, tuple[str, Callable[[Box], Box]]] = {
    "corner and size": ("two corners instead of x, y, width, height", _read_as_size),
    "center and size": ("two corners instead of center and size", _read_as_center),
    "two corners": ("x, y, width, height instead of two corners", _read_as_corners),
}
"""What may be there instead of a format's convention, and the correction of a box that was read by the convention."""


def correct_convention(
    records: tuple[ImageRecord, ...], convention: Convention, split: str, source: Path, report: Reporter
) -> tuple[ImageRecord, ...]:
    """Correct the boxes of a split if all of them are given in another convention; else return them unchanged.

    All boxes must lie inside their images then, and many must be impossible as the format reads them: empty, negative
    or far beyond the image. Boxes around polygons are left alone where the file holds only the polygons.

    Args:
        records: The images of the split.
        convention: How the format gives boxes.
        split: Name of the split.
        source: File or folder for the finding.
        report: Called with the finding.
    """
    mistake, correct = _MISTAKES[convention]
    given = [(record, item) for record in records for item in record.objects if _is_given(item, convention)]
    if not all(_fits(correct(item.box_xywh_px), record, FRAME_SLACK_PX, FRAME_SLACK_PX) for record, item in given):
        return records
    misfits = sum(
        not _fits(item.box_xywh_px, record, BEYOND_SHARE * record.width, BEYOND_SHARE * record.height)
        for record, item in given
    )
    if not misfits or misfits < _MISFIT_SHARE * len(given):
        return records
    message = f"{split}: all {len(given)} boxes are {mistake}; read so, they lie inside their images"
    report(Finding("box-convention", message, source))
    return tuple(
        replace(
            record,
            objects=tuple(
                _corrected(item, correct) if _is_given(item, convention) else item for item in record.objects
            ),
        )
        for record in records
    )


def _is_given(item: ObjectRecord, convention: Convention) -> bool:
    return convention != "center and size" or item.segmentation is None


def _fits(box: Box, record: ImageRecord, slack_x: float, slack_y: float) -> bool:
    """Return whether a box has an area and lies inside its image, but for some slack."""
    x, y, width, height = box
    return (
        all(map(math.isfinite, box))
        and min(width, height) > 0
        and min(x + slack_x, y + slack_y) >= 0
        and x + width <= record.width + slack_x
        and y + height <= record.height + slack_y
    )


def _corrected(item: ObjectRecord, correct: Callable[[Box], Box]) -> ObjectRecord:
    """Return an object with a corrected box; an area that was computed from the box follows it."""
    box = correct(item.box_xywh_px)
    computed = item.area == item.box_xywh_px[2] * item.box_xywh_px[3]
    return replace(item, box_xywh_px=box, area=box[2] * box[3] if computed else item.area)
