"""Raw outputs of the model → semantic, instance and panoptic segments.

Segment ids start at 1; `NO_SEGMENT`, 0, marks pixels without a segment, everywhere (stock writes 0 in some
cases and -1 in others). Work is done image by image, and where queries must survive a threshold, only on the
masks of those that do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import BatchFeature

from .coco_masks_detr import CocoRle, encode_rle, ids_to_rgb
from .resize_detr import image_sizes, optional_sizes, resize_masks, resize_nearest, without_padding

NO_SEGMENT = 0
"""Value of pixels without a segment in every segmentation map; also COCO's "void"."""

CLASSES_AT_ONCE = 16
"""Classes scored at once: bounds the memory that all classes of an image together would take."""


class SegmentInfo(TypedDict):
    """One segment: its id in the map, its class, whether that class is one of the fused, its score."""

    id: int
    label_id: int
    was_fused: bool
    score: float


class Segments(TypedDict):
    """Segments of one image: `segmentation (H, W)` int32 of segment ids, or RLEs; `segments_info` per id."""

    segmentation: Tensor | list[CocoRle]
    segments_info: list[SegmentInfo]


def post_process_semantic_segmentation(
    outputs: Any,
    target_sizes: Tensor | Sequence[Any] | None = None,
    return_segmentation_scores: bool = False,
    processed_sizes: Tensor | Sequence[Any] | None = None,
) -> list[Tensor] | list[BatchFeature]:
    """Turn raw outputs into one class per pixel.

    The score of a class at a pixel is the sum over queries of class probability times mask probability.

    Args:
        outputs: Has `logits (B, Q, C + 1)` and `pred_masks (B, Q, h, w)` of all queries.
        target_sizes: See `image_sizes`: the size of each result. If not given, that of the masks.
        return_segmentation_scores: Whether to return the scores of all classes too; they take
            4 · C · H · W bytes.
        processed_sizes: See `image_sizes`: the size of each image as the model saw it, without padding.

    Returns:
        For each image a map `(H, W)` of class ids; with scores, `segmentation` (that map) and
        `segmentation_scores (C, H, W)`.

    Raises:
        ValueError: If there is not one size per image, or the masks are smaller than the processed image.
    """
    results: list[Any] = []
    for logits, masks, target in _images(outputs, target_sizes, processed_sizes):
        classes = logits.float().softmax(-1)[:, :-1]  # (Q, C)
        probabilities = masks.float().sigmoid()  # (Q, h, w)
        chunks = (
            resize_masks(torch.einsum("qc,qhw->chw", chunk, probabilities), target)
            for chunk in classes.split(CLASSES_AT_ONCE, dim=1)
        )
        if return_segmentation_scores:
            scores = torch.cat(list(chunks))  # (C, H, W)
            results.append(BatchFeature({"segmentation": scores.argmax(0), "segmentation_scores": scores}))
        else:
            results.append(_argmax_of_chunks(chunks))
    return results


def post_process_instance_segmentation(
    outputs: Any,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    target_sizes: Tensor | Sequence[Any] | None = None,
    return_coco_annotation: bool | None = False,
    processed_sizes: Tensor | Sequence[Any] | None = None,
) -> list[Segments]:
    """Turn raw outputs into segments that do not overlap, one for each query that survives.

    Args:
        outputs: Has `logits (B, Q, C + 1)` and `pred_masks (B, Q, h, w)`.
        threshold: As in `post_process_panoptic_segmentation`.
        mask_threshold: As in `post_process_panoptic_segmentation`.
        overlap_mask_area_threshold: As in `post_process_panoptic_segmentation`.
        target_sizes: See `image_sizes`: the size of each result. If not given, that of the masks.
        return_coco_annotation: Whether `segmentation` shall be a list of COCO RLEs, one for each entry of
            `segments_info`. (Stock returns bare runs along the rows, which COCO's tools cannot read, and one
            for the background.)
        processed_sizes: See `image_sizes`: the size of each image as the model saw it, without padding.

    Returns:
        For each image `segmentation` and `segments_info`.

    Raises:
        ValueError: If there is not one size per image, or the masks are smaller than the processed image.
    """
    results = post_process_panoptic_segmentation(
        outputs,
        threshold,
        mask_threshold,
        overlap_mask_area_threshold,
        target_sizes=target_sizes,
        processed_sizes=processed_sizes,
    )
    return [segments_to_rle(result) for result in results] if return_coco_annotation else results


def post_process_panoptic_segmentation(
    outputs: Any,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_mask_area_threshold: float = 0.8,
    label_ids_to_fuse: Collection[int] | None = None,
    target_sizes: Tensor | Sequence[Any] | None = None,
    processed_sizes: Tensor | Sequence[Any] | None = None,
) -> list[Segments]:
    """Turn raw outputs into segments that do not overlap; classes of stuff are fused to one segment each.

    Each pixel goes to the surviving query with the highest mask probability times score. A query whose share
    of its own mask gets too small loses its pixels to no one.

    Args:
        outputs: Has `logits (B, Q, C + 1)` and `pred_masks (B, Q, h, w)`.
        threshold: A query survives if its best class is not "no object" and scores above this.
        mask_threshold: A query's own mask is where mask probability times score reaches this.
        overlap_mask_area_threshold: A query must get more pixels than this share of its own mask.
        label_ids_to_fuse: Classes whose queries become one segment, with the best score among them.
        target_sizes: See `image_sizes`: the size of each result. If not given, that of the masks.
        processed_sizes: See `image_sizes`: the size of each image as the model saw it, without padding.

    Returns:
        For each image `segmentation (H, W)`, int32, `NO_SEGMENT` where nothing is, and `segments_info` with
        one entry per id. (In stock, ids repeat after a fused class and a fused class has several entries.)

    Raises:
        ValueError: If there is not one size per image, or the masks are smaller than the processed image.
    """
    fused = frozenset(label_ids_to_fuse or ())
    results = []
    for logits, masks, target in _images(outputs, target_sizes, processed_sizes):
        scores, labels, queries = confident_queries(logits, threshold)
        probabilities = resize_masks(masks[queries].float().sigmoid(), target)
        probabilities *= scores[:, None, None]
        owner = _argmax(probabilities)  # (H, W)
        owned = _areas(owner, len(queries))
        # One by one: a sum over all masks at once would first turn them into 8-byte integers.
        whole = owned.new_tensor([(mask >= mask_threshold).sum() for mask in probabilities])
        valid = (owned > 0) & (whole > 0) & (owned / whole > overlap_mask_area_threshold)
        results.append(_number_segments(owner, scores, labels, valid, fused))
    return results


def post_process_panoptic_paper(
    outputs: Any,
    processed_sizes: Tensor | Sequence[Any],
    threshold: float = 0.85,
    label_ids_to_fuse: Collection[int] | None = None,
    target_sizes: Tensor | Sequence[Any] | None = None,
    smallest_area: int = 5,
) -> list[Segments]:
    """Turn raw outputs into panoptic segments by the paper's procedure, behind the published PQ.

    Each pixel of the processed image goes to the query with the highest mask logit; queries of one class of
    stuff give their pixels to the first of them. Segments that are then too small are dropped and all pixels
    assigned once more among the rest, without giving to the first, until none is too small.
    Source: Carion et al., End-to-End Object Detection with Transformers, 2020, section 4.3, and its code,
    from which this departs in cutting off the padding (see `resize_detr`) and in ids that start at 1.

    Args:
        outputs: Has `logits (B, Q, C + 1)` and `pred_masks (B, Q, h, w)`.
        processed_sizes: See `image_sizes`: the size of each image as the model saw it, without padding.
        threshold: A query survives if its best class is not "no object" and scores above this.
        label_ids_to_fuse: The classes of stuff.
        target_sizes: See `image_sizes`: the size of each result. If not given, the processed size.
        smallest_area: Pixels, at the target size, that a segment must have.

    Returns:
        As `post_process_panoptic_segmentation`. If any query survives, no pixel is without a segment.

    Raises:
        ValueError: If there is not one size per image, or the masks are smaller than the processed image.
    """
    stuff = frozenset(label_ids_to_fuse or ())
    results = []
    sizes = image_sizes(processed_sizes, len(outputs.logits), "processed_sizes")
    images = _images(outputs, sizes if target_sizes is None else target_sizes, sizes)
    for (logits, masks, target), size in zip(images, sizes, strict=True):
        scores, labels, queries = confident_queries(logits, threshold)
        enlarged = resize_masks(masks[queries].float(), size)
        owner = _give_to_first(_argmax(enlarged), labels, stuff)
        owner = resize_nearest(owner, target)
        while not (large := _areas(owner, len(labels)) >= smallest_area).all():
            scores, labels, enlarged = scores[large], labels[large], enlarged[large]
            owner = resize_nearest(_argmax(enlarged), target)
        results.append(_number_segments(owner, scores, labels, large, stuff))
    return results


def confident_queries(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of one image whose best class is not "no object" and scores above a threshold.

    Args:
        logits: `(Q, C + 1)`, the last column for "no object".
        threshold: Probability.

    Returns:
        Of the N queries that qualify, in order: scores `(N,)`, labels `(N,)`, indices `(N,)`.
    """
    scores, labels = logits.float().softmax(-1).max(-1)
    queries = torch.nonzero((scores > threshold) & (labels != logits.shape[-1] - 1)).squeeze(1)
    return scores[queries], labels[queries], queries


def segments_to_rle(segments: Segments) -> Segments:
    """The same segments with the map replaced by COCO RLEs, one for each entry of `segments_info`."""
    ids = torch.as_tensor(segments["segmentation"]).cpu().numpy()
    rles = [encode_rle(ids == info["id"]) for info in segments["segments_info"]]
    return {"segmentation": rles, "segments_info": segments["segments_info"]}


def segments_to_coco(segments: Segments, image_id: int, file_name: str) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Write panoptic segments in COCO's format.

    Args:
        segments: Result of a panoptic function for one image; its classes must be the dataset's categories.
        image_id: The dataset's id of the image.
        file_name: Name of the PNG.

    Returns:
        The PNG's pixels `(H, W, 3)`, uint8, and the image's entry of "annotations": besides `image_id` and
        `file_name`, `segments_info` with `id`, `category_id`, `area`, `bbox` (left, top, width, height) and
        `iscrowd`.
    """
    ids = torch.as_tensor(segments["segmentation"]).cpu().numpy()
    entries = []
    for info in segments["segments_info"]:
        rows, columns = np.nonzero(ids == info["id"])
        left, top = int(columns.min()), int(rows.min())
        entries.append(
            {
                "id": info["id"],
                "category_id": info["label_id"],
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
                "iscrowd": 0,
            }
        )
    return ids_to_rgb(ids), {"image_id": image_id, "file_name": file_name, "segments_info": entries}


def _images(
    outputs: Any, target_sizes: Tensor | Sequence[Any] | None, processed_sizes: Tensor | Sequence[Any] | None
) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """For each image its logits `(Q, C + 1)`, its masks `(Q, h, w)` without padding, and its target size."""
    count = len(outputs.logits)
    targets = optional_sizes(target_sizes, count)
    sizes = optional_sizes(processed_sizes, count, "processed_sizes")
    for logits, masks, target, size in zip(outputs.logits, outputs.pred_masks, targets, sizes, strict=True):
        yield logits, masks if size is None else without_padding(masks, size), target


def _number_segments(owner: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, fused: frozenset[int]) -> Segments:
    """Number the valid ones of K queries, from 1.

    Args:
        owner: `(H, W)`, which of the K queries each pixel belongs to.
        scores: `(K,)`.
        labels: `(K,)`.
        valid: `(K,)`, which queries become segments.
        fused: Classes whose queries share one id.
    """
    infos: list[SegmentInfo] = []
    info_of_class: dict[int, SegmentInfo] = {}
    ids = [NO_SEGMENT] * (len(labels) + 1)  # one more, so that a map without queries can be looked up too
    rows = zip(scores.tolist(), labels.tolist(), valid.tolist(), strict=True)
    for query, (score, label, is_valid) in enumerate(rows):
        if not is_valid:
            continue
        info = info_of_class.get(label)
        if info is None:
            was_fused = label in fused
            info = {"id": len(infos) + 1, "label_id": label, "was_fused": was_fused, "score": round(score, 6)}
            infos.append(info)
            if was_fused:
                info_of_class[label] = info
        info["score"] = max(info["score"], round(score, 6))
        ids[query] = info["id"]
    table = torch.tensor(ids, dtype=torch.int32, device=owner.device)
    return {"segmentation": table[owner], "segments_info": infos}


def _give_to_first(owner: Tensor, labels: Tensor, classes: frozenset[int]) -> Tensor:
    """Give the pixels of all queries of one of `classes` to the first query of that class."""
    if len(labels) == 0:
        return owner
    first_of_class: dict[int, int] = {}
    firsts = [
        first_of_class.setdefault(label, query) if label in classes else query
        for query, label in enumerate(labels.tolist())
    ]
    return torch.tensor(firsts, device=owner.device)[owner]


def _argmax(masks: Tensor) -> Tensor:
    """Index of the highest of the masks `(K, H, W)` at each pixel, `(H, W)`; all 0 without masks."""
    return masks.argmax(0) if len(masks) else masks.new_zeros(masks.shape[1:], dtype=torch.long)


def _argmax_of_chunks(chunks: Iterator[Tensor]) -> Tensor:
    """Argmax `(H, W)` over the first dimension of `(C, H, W)`, of which the chunks are consecutive parts."""
    best_scores, best_labels = next(chunks).max(dim=0)
    first = CLASSES_AT_ONCE
    for chunk in chunks:
        scores, labels = chunk.max(dim=0)
        best_labels = torch.where(scores > best_scores, labels + first, best_labels)
        best_scores = torch.maximum(scores, best_scores)
        first += len(chunk)
    return best_labels


def _areas(owner: Tensor, count: int) -> Tensor:
    """Number of pixels `(count,)` of each value from 0 on in a map `(H, W)`."""
    return torch.bincount(owner.flatten(), minlength=count)[:count]
