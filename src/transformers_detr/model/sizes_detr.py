"""Sizes of images: reading them however they are given, and bringing masks to them.

Padding. The masks of a batch cover its padded canvas. `without_padding` cuts an image's masks to the cells
that the image would have alone; only then may they be resized to the image, or its segments in a batch would
not be its segments alone. (The original resizes the whole canvas to the image in its panoptic procedure, and
cuts instance masks only after resizing, which moves them by a fraction of a pixel. Stock never cuts.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MASK_STRIDE = 4
"""Pixels per cell of the predicted masks, in both directions."""

Size = tuple[int, int]


def image_sizes(sizes: Tensor | Sequence[Any], count: int, name: str = "target_sizes") -> list[Size]:
    """Read the sizes of a batch's images, however they are given.

    Args:
        sizes: Tensor or array `(B, 2)`, or a list of (height, width) pairs, or of PIL images, which stand for
            their own size (a bare `image.size` would be width first).
        count: B, the number of images.
        name: Name of the argument, for errors.

    Returns:
        One (height, width) per image.

    Raises:
        ValueError: If there is not one size per image, or one is not a pair of positive whole numbers.
    """
    if not hasattr(sizes, "__len__"):
        raise ValueError(f"{name} must hold one (height, width) per image, got {sizes!r}")
    if len(sizes) != count:
        raise ValueError(f"{name} must hold one (height, width) per image: {len(sizes)} for {count} images")
    return [_size(item, f"{name}[{index}]") for index, item in enumerate(sizes)]


def optional_sizes(
    sizes: Tensor | Sequence[Any] | None, count: int, name: str = "target_sizes"
) -> list[Size] | list[None]:
    """As `image_sizes`; where no sizes are given, None for each image."""
    return [None] * count if sizes is None else image_sizes(sizes, count, name)


def sizes_of_real_pixels(pixel_mask: Tensor) -> Tensor:
    """Height and width `(B, 2)` of each image before padding, from masks `(B, H, W)` of real pixels."""
    real = pixel_mask.bool()
    return torch.stack([real.any(dim=2).sum(dim=1), real.any(dim=1).sum(dim=1)], dim=1)


def without_padding(masks: Tensor, size: Size) -> Tensor:
    """The cells `(Q, h, w)` of masks that belong to an image of `size` pixels: what it would have alone."""
    cells = tuple(-(-side // MASK_STRIDE) for side in size)
    if cells[0] > masks.shape[-2] or cells[1] > masks.shape[-1]:
        raise ValueError(
            f"processed_sizes: an image of {size} pixels has masks of {cells} cells, "
            f"but pred_masks has only {tuple(masks.shape[-2:])}"
        )
    return masks[:, : cells[0], : cells[1]]


def resize_masks(masks: Tensor, size: Size | None) -> Tensor:
    """Masks `(K, h, w)` at another size, bilinear; as they are if no size is given or there are none."""
    if size is None:
        return masks
    if len(masks) == 0:
        return masks.new_zeros((0, *size))
    return interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_nearest(labels: Tensor, size: Size) -> Tensor:
    """A map `(h, w)` at another size: each pixel takes the value under its center, as Pillow does it."""
    for dimension, (old, new) in enumerate(zip(labels.shape, size, strict=True)):
        index = (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        labels = labels.index_select(dimension, index)
    return labels


def _size(item: Any, name: str) -> Size:
    """Read one (height, width), or the size of a PIL image."""
    if hasattr(item, "height") and hasattr(item, "width"):
        item = (item.height, item.width)
    numbers = item.tolist() if hasattr(item, "tolist") else item
    try:
        height, width = (float(number) for number in numbers)
    except (TypeError, ValueError):
        height = width = 0.0
    if not all(side >= 1 and side.is_integer() for side in (height, width)):
        raise ValueError(f"{name} must be (height, width), two positive whole numbers, got {numbers!r}")
    return int(height), int(width)
