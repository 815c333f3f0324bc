"""COCO annotations of an image → its target, and what resizing and padding do to a target.

A target is a dict of tensors for the `N` objects of one image: `image_id (1,)`, `orig_size (2,)` and
`size (2,)` (before and after resizing, never padded), `class_labels (N,)`, `boxes (N, 4)`, `area (N,)`
in pixels of the resized image, `iscrowd (N,)`, and, where wanted, `masks (N, H, W)`, bool.

Any fault of an annotation is a ValueError that names image and annotation by their ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .boxes_detr import xyxy_to_cxcywh
from .coco_masks_detr import decode_rle, polygons_to_mask, rgb_to_ids
from .image_io_detr import load_image
from .resize_detr import Size

Target = dict[str, Tensor]


def detection_target(
    annotation: Mapping[str, Any],
    size: Size,
    return_masks: bool = False,
    degenerate_boxes: str = "drop",
    name: str = "annotation",
) -> Target:
    """Read a COCO detection annotation.

    Crowds are left out. Boxes are clipped to the image.

    Args:
        annotation: `image_id` and `annotations`, a list of objects with `category_id`, `bbox` (left, top,
            width, height in pixels) and perhaps `id`, `iscrowd`, `area` (else that of the box) and
            `segmentation` (polygons or RLE).
        size: (height, width) of the image.
        return_masks: whether to read the segmentations too; polygons need faster-coco-eval.
        degenerate_boxes: "drop" or "refuse" objects whose box has no area inside the image.
        name: what errors call an annotation without an image id.

    Returns:
        A target whose boxes are xyxy in pixels.

    Raises:
        ValueError: a key is missing or a value is not what it should be; a degenerate box where they are
            refused; no box at all lies in the image, though they have an area.
        ImportError: faster-coco-eval is needed and missing.
    """
    image_id = _image_id(annotation, ("image_id",), name)
    objects = _list(annotation, "annotations", f"image {image_id}")
    named = [(item, _object_name(item, index, image_id)) for index, item in enumerate(objects)]
    named = [(item, where) for item, where in named if not _flag(item, where)]

    given = torch.tensor([_bbox(item, where) for item, where in named], dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat([given[:, :2], given[:, :2] + given[:, 2:]], dim=1)  # xyxy
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
    kept = ((boxes[:, 2:] > boxes[:, :2]).all(1)).tolist()
    for (item, where), keep in zip(named, kept, strict=True):
        if not keep and degenerate_boxes == "refuse":
            raise ValueError(f"{where}: bbox {item['bbox']} has no area inside the image of {_shown(size)}")
    if not any(kept) and any(width > 0 and height > 0 for _, _, width, height in given.tolist()):
        raise ValueError(
            f"image {image_id}: all boxes lie outside the image of {_shown(size)}, the first at "
            f"{named[0][0]['bbox']}: are these another image's annotations?"
        )
    named = [pair for pair, keep in zip(named, kept, strict=True) if keep]
    target = {
        "image_id": torch.tensor([image_id]),
        "orig_size": torch.tensor(size),
        "size": torch.tensor(size),
        "class_labels": torch.tensor([_category(item, where) for item, where in named], dtype=torch.int64),
        "boxes": boxes[torch.tensor(kept, dtype=torch.bool)],
        "area": torch.tensor([_area(item, where) for item, where in named], dtype=torch.float32),
        "iscrowd": torch.zeros(len(named), dtype=torch.int64),
    }
    if return_masks:
        masks = [_object_mask(item, size, where) for item, where in named]
        target["masks"] = torch.from_numpy(np.stack(masks)) if masks else torch.zeros((0, *size), dtype=torch.bool)
    return target


def panoptic_target(
    annotation: Mapping[str, Any],
    size: Size,
    masks_path: str | Path,
    return_masks: bool = True,
    degenerate_boxes: str = "drop",
    name: str = "annotation",
) -> Target:
    """Read a COCO panoptic annotation.

    Crowds are kept, with `iscrowd` 1. As the original has it, a box goes from the lowest to the highest pixel
    index of its mask, so that a mask one pixel wide has a box of width 0.

    Args:
        annotation: `image_id` or `id`, `file_name` and `segments_info`, a list of segments with `id`,
            `category_id` and perhaps `iscrowd` and `area` (else that of the mask).
        size: (height, width) of the image.
        masks_path: the folder of the panoptic PNG `file_name`.
        return_masks: whether the target gets the masks.
        degenerate_boxes: "drop" or "refuse" segments without a pixel in the PNG.
        name: what errors call an annotation without an image id.

    Returns:
        A target whose boxes are xyxy in pixels.

    Raises:
        ValueError: a key is missing or a value is invalid; the PNG cannot be read or has
            another size; a segment without pixels where they are refused; all segments are without pixels.
        OSError: there is no such PNG.
    """
    image_id = _image_id(annotation, ("image_id", "id"), name)
    segments = _list(annotation, "segments_info", f"image {image_id}")
    path = Path(masks_path) / str(_value(annotation, "file_name", f"image {image_id}"))
    png = load_image(path, name=f"image {image_id}: panoptic PNG")
    if (png.height, png.width) != size:
        raise ValueError(
            f"image {image_id}: the panoptic PNG {path} is {_shown((png.height, png.width))}, the image {_shown(size)}"
        )
    named = [(item, _object_name(item, index, image_id)) for index, item in enumerate(segments)]
    ids = torch.tensor([_integer(item, "id", where) for item, where in named], dtype=torch.int64)
    masks = torch.from_numpy(rgb_to_ids(np.asarray(png))) == ids[:, None, None]  # (N, H, W)
    areas = masks.sum(dim=(1, 2))
    kept = (areas > 0).tolist()
    for (_, where), keep in zip(named, kept, strict=True):
        if not keep and degenerate_boxes == "refuse":
            raise ValueError(f"{where}: no pixel of {path} belongs to the segment")
    if named and not any(kept):
        raise ValueError(f"image {image_id}: none of its {len(named)} segments occurs in {path}")
    keep_index = torch.tensor(kept, dtype=torch.bool)
    named = [pair for pair, keep in zip(named, kept, strict=True) if keep]
    masks = masks[keep_index]
    mask_areas = areas[keep_index].tolist()
    target = {
        "image_id": torch.tensor([image_id]),
        "orig_size": torch.tensor(size),
        "size": torch.tensor(size),
        "class_labels": torch.tensor([_category(item, where) for item, where in named], dtype=torch.int64),
        "boxes": masks_to_boxes(masks),
        "area": torch.tensor(
            [_area(item, where, mask_area) for (item, where), mask_area in zip(named, mask_areas, strict=True)],
            dtype=torch.float32,
        ),
        "iscrowd": torch.tensor([_flag(item, where) for item, where in named], dtype=torch.int64),
    }
    return {**target, "masks": masks} if return_masks else target


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The boxes `(N, 4)`, xyxy, from the lowest to the highest pixel index of masks `(N, H, W)`, none empty."""
    bounds = []
    for line in (masks.any(dim=1), masks.any(dim=2)):  # (N, W), (N, H)
        length = line.shape[1]
        index = torch.arange(length)
        bounds += [torch.where(line, index, length).amin(1), torch.where(line, index, -1).amax(1)]
    left, right, top, bottom = bounds
    return torch.stack([left, top, right, bottom], dim=1).float()


def resize_target(target: Target, size: Size) -> Target:
    """The target of the image after it was resized to `size` (height, width); masks go by nearest neighbor."""
    old_height, old_width = target["size"].tolist()
    height_ratio, width_ratio = size[0] / old_height, size[1] / old_width
    ratios = torch.tensor([width_ratio, height_ratio, width_ratio, height_ratio])
    resized = {
        **target,
        "size": torch.tensor(size),
        "boxes": target["boxes"] * ratios,
        "area": target["area"] * (width_ratio * height_ratio),
    }
    if "masks" in target:
        masks = target["masks"]
        resized["masks"] = (
            interpolate(masks[None].byte(), size=size, mode="nearest")[0].bool()
            if len(masks)
            else masks.new_zeros((0, *size))
        )
    return resized


def relative_target(target: Target) -> Target:
    """The target with its boxes, xyxy in pixels, as cxcywh relative to the image, which is never the padded one."""
    height, width = target["size"].tolist()
    return {**target, "boxes": xyxy_to_cxcywh(target["boxes"]) / torch.tensor([width, height, width, height])}


def pad_target(target: Target, padded: Size) -> Target:
    """The target of the image in a padded batch of size (height, width): only masks change."""
    if "masks" not in target:
        return target
    masks = target["masks"]
    canvas = masks.new_zeros((len(masks), *padded))
    canvas[:, : masks.shape[1], : masks.shape[2]] = masks
    return {**target, "masks": canvas}


def _object_mask(item: Mapping[str, Any], size: Size, where: str) -> np.ndarray[Any, Any]:
    segmentation = _value(item, "segmentation", where)
    if isinstance(segmentation, Mapping):
        if tuple(segmentation.get("size", ())) != size or "counts" not in segmentation:
            raise ValueError(
                f"{where}: an RLE needs counts and the size {list(size)} of the image, "
                f"got {sorted(segmentation)} and {segmentation.get('size')}"
            )
        polygons = None
    else:
        polygons = _list(item, "segmentation", where)
    try:
        return decode_rle(dict(segmentation)) if polygons is None else polygons_to_mask(polygons, *size)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _image_id(annotation: Any, keys: tuple[str, ...], name: str) -> int:
    if not isinstance(annotation, Mapping):
        raise ValueError(f"{name} must be a dict for its image, got {type(annotation).__name__}")
    for key in keys:
        if key in annotation:
            return _integer(annotation, key, name)
    raise ValueError(f"{name} has no {' or '.join(keys)}; its keys are {sorted(map(str, annotation))}")


def _object_name(item: Any, index: int, image_id: int) -> str:
    if isinstance(item, Mapping):
        return f"image {image_id}, annotation {item['id']}" if "id" in item else f"image {image_id}, object {index}"
    raise ValueError(f"image {image_id}, object {index} must be a dict, got {type(item).__name__}")


def _value(item: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in item:
        raise ValueError(f"{where} has no {key}; its keys are {sorted(map(str, item))}")
    return item[key]


def _list(item: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = _value(item, key, where)
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise ValueError(f"{where}: {key} must be a list, got {type(value).__name__}")
    return list(value)


def _integer(item: Mapping[str, Any], key: str, where: str) -> int:
    number = _finite(_value(item, key, where), key, where)
    if number != int(number):
        raise ValueError(f"{where}: {key} must be a whole number, got {number}")
    return int(item[key])


def _finite(number: Any, key: str, where: str) -> float:
    try:
        value = float(number) if not isinstance(number, str) else math.nan
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {key} must hold finite numbers, got {number!r}")
    return value


def _category(item: Mapping[str, Any], where: str) -> int:
    category = _integer(item, "category_id", where)
    if category < 0:
        raise ValueError(f"{where}: category_id must not be negative, got {category}")
    return category


def _bbox(item: Mapping[str, Any], where: str) -> list[float]:
    box = _value(item, "bbox", where)
    if isinstance(box, str) or not hasattr(box, "__len__") or len(box) != 4:
        raise ValueError(f"{where}: bbox must be four numbers (left, top, width, height), got {box!r}")
    return [_finite(number, "bbox", where) for number in box]


def _area(item: Mapping[str, Any], where: str, otherwise: float | None = None) -> float:
    if item.get("area") is not None:
        return _finite(item["area"], "area", where)
    if otherwise is not None:
        return otherwise
    _, _, width, height = _bbox(item, where)
    return width * height


def _flag(item: Mapping[str, Any], where: str) -> int:
    """Read whether an annotation is a crowd: 0 or 1."""
    crowd = item.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise ValueError(f"{where}: iscrowd must be 0 or 1, got {crowd!r}")
    return int(crowd)


def _shown(size: Size) -> str:
    return f"{size[0]}×{size[1]} pixels (height × width)"
