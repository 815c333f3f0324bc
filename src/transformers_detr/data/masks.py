"""Segmentations of objects, as files hold them: validity and extent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transformers_detr.data.field_values import shown
from transformers_detr.model.coco_masks_detr import decode_rle, polygon_problem

LARGEST_MASK_PX = 2**27
"""Run lengths of more pixels are not decoded, which bounds the memory."""


def without_empty(segmentation: Any) -> Any:
    """Return a segmentation, or None for the ways to say that there is none: null, [], {}, "", [[]]."""
    return segmentation if segmentation and segmentation != [[]] else None


def mask_problem(segmentation: Any) -> str | None:
    """Describe what keeps a value from being polygons or run lengths; None if it is a mask."""
    if isinstance(segmentation, Mapping):
        try:
            height, width = (int(side) for side in segmentation["size"])
            if not 0 < height * width <= LARGEST_MASK_PX:
                return f"run lengths of {height}×{width} pixels are not decoded"
            mask = decode_rle(dict(segmentation))
        except KeyError as error:
            return f"run lengths: no {error}"
        except (OverflowError, TypeError, ValueError) as error:
            return f"run lengths: {error}"
        return None if mask.any() else "run lengths of an empty mask"
    if not isinstance(segmentation, list) or not segmentation:
        return f"must be polygons or run lengths, got {shown(segmentation)}"
    return next(filter(None, map(polygon_problem, segmentation)), None)


def mask_extent(segmentation: Any) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a valid mask in pixels."""
    if isinstance(segmentation, Mapping):
        mask = decode_rle(dict(segmentation))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
    xs, ys = (np.concatenate([np.asarray(line, float)[axis::2] for line in segmentation]) for axis in (0, 1))
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())
