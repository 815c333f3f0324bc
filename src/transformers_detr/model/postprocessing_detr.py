"""Raw outputs of the model → scored, labeled boxes, with or without masks; image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .boxes_detr import boxes_to_pixels, cxcywh_to_xyxy
from .resize_detr import Size, image_sizes, optional_sizes, resize_masks, without_padding

CHUNK = 16
"""Masks resized at once: bounds the memory that all queries together would take."""

EVERY_QUERY = -1.0
"""A threshold below every score: keeps all queries."""


class Detections(TypedDict, total=False):
    """Detections of one image: `scores (N,)`, `labels (N,)`, `boxes (N, 4)`; some functions add `masks`."""

    scores: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor


def post_process_object_detection(
    outputs: Any,
    threshold: float = 0.5,
    target_sizes: Tensor | Sequence[Any] | None = None,
    top_k: int | None = None,
) -> list[Detections]:
    """Turn raw outputs into scored, labeled boxes.

    The score of a query is the probability of its best class; "no object" takes part in the probabilities,
    not in the choice.

    Args:
        outputs: Has `logits (B, Q, C + 1)` and `pred_boxes (B, Q, 4)`.
        threshold: Detections must score above it. A negative one keeps all queries.
        target_sizes: See `image_sizes`: the size that each image's boxes shall refer to, usually that of the
            original image. If not given, boxes stay relative.
        top_k: Largest number of detections per image, best first. If not given, all, in the order of queries.

    Returns:
        For each image `scores (N,)`, `labels (N,)` and `boxes (N, 4)`, xyxy in pixels, not rounded and not
        clipped.

    Raises:
        ValueError: If `target_sizes` does not hold one size per image, or `top_k` is below 1.
    """
    sizes = optional_sizes(target_sizes, len(outputs.logits))
    return [
        _detections(logits, boxes, size, threshold, top_k)[0]
        for logits, boxes, size in zip(outputs.logits, outputs.pred_boxes, sizes, strict=True)
    ]


def post_process_instance_masks(
    outputs: Any,
    processed_sizes: Tensor | Sequence[Any],
    target_sizes: Tensor | Sequence[Any],
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    top_k: int | None = None,
) -> list[Detections]:
    """Turn raw outputs into detections that carry each query's own mask; masks may overlap.

    This is the original's instance segmentation, with which the published mask AP was measured (all queries:
    a negative `threshold`), but for the moment at which padding is cut off (see `resize_detr`).

    Args:
        outputs: Has `logits`, `pred_boxes` and `pred_masks (B, Q, h, w)`.
        processed_sizes: See `image_sizes`: the size of each image as the model saw it, without padding.
        target_sizes: See `image_sizes`: the size of boxes and masks.
        threshold: As in `post_process_object_detection`.
        mask_threshold: A pixel belongs to the mask if its probability is above this.
        top_k: As in `post_process_object_detection`.

    Returns:
        Detections with `masks (N, H, W)`, bool.

    Raises:
        ValueError: If there is not one size per image, or the masks are smaller than the processed image.
    """
    count = len(outputs.logits)
    sizes = image_sizes(processed_sizes, count, "processed_sizes")
    targets = image_sizes(target_sizes, count)
    images = zip(outputs.logits, outputs.pred_boxes, outputs.pred_masks, sizes, targets, strict=True)
    results = []
    for logits, boxes, masks, size, target in images:
        detections, queries = _detections(logits, boxes, target, threshold, top_k)
        kept = without_padding(masks, size)[queries]
        detections["masks"] = kept.new_zeros((len(queries), *target), dtype=torch.bool)
        for first in range(0, len(queries), CHUNK):
            probabilities = resize_masks(kept[first : first + CHUNK].float(), size).sigmoid()
            binary = (probabilities > mask_threshold).byte()
            detections["masks"][first : first + CHUNK] = interpolate(binary[None], size=target)[0]
        results.append(detections)
    return results


def _detections(
    logits: Tensor, boxes_cxcywh: Tensor, size: Size | None, threshold: float, top_k: int | None
) -> tuple[Detections, Tensor]:
    """Detections of one image and the queries `(N,)` they come from."""
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    scores, labels = logits.float().softmax(-1)[:, :-1].max(-1)
    queries = torch.nonzero(scores > threshold).squeeze(1)
    if top_k is not None:
        queries = queries[scores[queries].argsort(descending=True, stable=True)[:top_k]]
    boxes = cxcywh_to_xyxy(boxes_cxcywh[queries].float())
    if size is not None:
        boxes = boxes_to_pixels(boxes, torch.tensor(size))
    return {"scores": scores[queries], "labels": labels[queries], "boxes": boxes}, queries
