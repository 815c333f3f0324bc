"""Sizes of images and masks: the `size` setting of the processor, sizes given by callers, and resizing of masks.

Padding. The masks of a batch cover its padded canvas. `without_padding` cuts an image's masks to the cells
that the image would have alone; only then may they be resized to the image, or its segments in a batch would
not be its segments alone. (The original resizes the whole canvas to the image in its panoptic procedure, and
cuts instance masks only after resizing, which moves them by a fraction of a pixel. Stock never cuts.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MASK_STRIDE = 4
"""Pixels per cell of the predicted masks, in both directions."""

Size = tuple[int, int]

SIZE_FORMS = (
    ("shortest_edge", "longest_edge"),
    ("shortest_edge",),
    ("longest_edge",),
    ("height", "width"),
    ("max_height", "max_width"),
)
LONGEST_EDGE = 1333


class SizeDict(dict[str, int]):
    """A size that reads as `size["height"]` and, as in transformers since 5.0, as `size.height`."""

    def __getattr__(self, key: str) -> int | None:
        if not any(key in form for form in SIZE_FORMS):
            raise AttributeError(key)
        return self.get(key)


def read_size(
    size: int | Iterable[Any] | Mapping[str, int], max_size: int | None = None, name: str = "size"
) -> SizeDict:
    """Read a size in any of the forms that configuration files and callers use.

    Args:
        size: the shortest edge, a pair (height, width), or a mapping with the keys of one of `SIZE_FORMS`.
        max_size: the longest edge, where the size has a shortest one; 1333 if neither says it and the size is a
            bare number.
        name: name of the argument, for errors.

    Raises:
        ValueError: other keys, or a value that is not a positive whole number.
    """
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": LONGEST_EDGE}
    elif hasattr(size, "shortest_edge"):
        size = dict(vars(size) or size)  # the SizeDict of transformers is a dataclass, ours a mapping
    elif not isinstance(size, Mapping):
        size = dict(zip(("height", "width", "third number"), size, strict=False))
    given = SizeDict({key: value for key, value in size.items() if value is not None})
    if max_size is not None and "shortest_edge" in given:
        given["longest_edge"] = max_size
    if not any(set(given) == set(form) for form in SIZE_FORMS):
        forms = ", or ".join(" and ".join(form) for form in SIZE_FORMS)
        raise ValueError(f"{name} must be a number, (height, width), or give {forms}; got {size}")
    for key, value in given.items():
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name}: {key} must be a positive whole number, got {value!r}")
    return given


def resized_size(height: int, width: int, size: Mapping[str, int], name: str = "image") -> tuple[int, int]:
    """The size an image is resized to.

    With `shortest_edge`, the shorter side becomes that long, or shorter where the longer side would otherwise
    exceed `longest_edge`. Rounding is the original's: the shorter side to the nearest, the longer one down;
    the longer one of very elongated images then exceeds `longest_edge`. (Stock rounds the other way round,
    which differs by a pixel for a quarter of all image sizes.)

    With `longest_edge` alone, the longer side becomes that long, also of smaller images; both sides are rounded, as
    the Table Transformer does it.

    Args:
        height: pixels.
        width: pixels.
        size: as `read_size` returns it.
        name: what the error calls the image.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: a side would have no pixels.
    """
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        new_height, new_width = int(height * scale), int(width * scale)
    elif "shortest_edge" not in size:
        scale = size["longest_edge"] / max(height, width)
        new_height, new_width = round(height * scale), round(width * scale)
    else:
        new_height, new_width = _with_shortest_edge(height, width, size)
    if new_height < 1 or new_width < 1:
        raise ValueError(
            f"{name}: is too elongated ({height}×{width}, height × width): "
            f"resized to {dict(size)}, a side would have no pixels"
        )
    return new_height, new_width


def _with_shortest_edge(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    shorter, longer = min(height, width), max(height, width)
    edge, longest = size["shortest_edge"], size.get("longest_edge")
    if longest is not None and longer / shorter * edge > longest:
        edge = round(longest * shorter / longer)
    if edge == shorter:
        return height, width
    if width < height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


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
    """Read sizes as `image_sizes` does; without sizes, return None for each image."""
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
    """Resize masks `(K, h, w)`, bilinear; without a size, return them unchanged."""
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
