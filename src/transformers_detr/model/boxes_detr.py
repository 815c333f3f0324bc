"""Boxes: conversion between the two formats, areas, overlap.

A box is the last dimension of a tensor, of size 4: `cxcywh` (center x, center y, width, height) or `xyxy`
(left, top, right, bottom). All functions are differentiable and take any leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Boxes `(..., 4)` given by center and size, as corners `(..., 4)`."""
    center, half_size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([center - half_size, center + half_size], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Boxes `(..., 4)` given by corners, as center and size `(..., 4)`."""
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def boxes_to_pixels(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Relative boxes in pixels; the format, `cxcywh` or `xyxy`, stays.

    Args:
        boxes: `(..., N, 4)`, relative to the image.
        sizes: `(..., 2)`, height and width of each image in pixels.

    Returns:
        `(..., N, 4)` in pixels.
    """
    width_height = sizes.flip(-1).to(boxes)
    return boxes * torch.cat([width_height, width_height], dim=-1).unsqueeze(-2)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Areas `(...)` of boxes `(..., 4)`, in the square of their unit."""
    width_height = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return width_height[..., 0] * width_height[..., 1]


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of each box of one set with each of the other.

    Args:
        a_xyxy: `(..., N, 4)`.
        b_xyxy: `(..., M, 4)`, same unit.

    Returns:
        Two tensors `(..., N, M)`: the ratio, 0 where both boxes are empty, and the area of the union.
    """
    return _iou_and_union(a_xyxy.unsqueeze(-2), b_xyxy.unsqueeze(-3))


def elementwise_generalized_box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalized IoU of boxes that stand at the same place in two tensors.

    The IoU, less the share of the smallest box around both that neither of them covers.
    Source: Rezatofighi et al., Generalized Intersection over Union, 2019.

    Args:
        a_xyxy: `(..., 4)`.
        b_xyxy: `(..., 4)`, same unit, a shape that broadcasts with the other.

    Returns:
        `(...)`, values in [-1, 1]; 0 where both boxes lie in one point or on one line along an axis.
    """
    iou, union = _iou_and_union(a_xyxy, b_xyxy)
    hull = _extent(torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]))
    return iou - _ratio(hull - union, hull)


def _iou_and_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    intersection = _extent(
        torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    )
    union = box_area(a_xyxy) + box_area(b_xyxy) - intersection
    return _ratio(intersection, union), union


def _extent(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Area between two corners `(..., 2)`; 0 where they have crossed."""
    width_height = (bottom_right - top_left).clamp(min=0)
    return width_height[..., 0] * width_height[..., 1]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, and 0, with a finite gradient, where there is no whole."""
    return part / (whole + (whole == 0))
