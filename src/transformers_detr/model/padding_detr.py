"""Images of different sizes → one batch: padded at the bottom and on the right, with a mask of real pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature

from .resize_detr import Size, sizes_of_real_pixels


def pad_batch(
    tensors: Sequence[Tensor], pad_size: Size | None = None, value: float = 0, always_mask: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Pad images at the bottom and on the right and stack them.

    The model needs exact padding only where there is a mask, that is, where something is padded.

    Args:
        tensors: Images `(C, h, w)`, at least one, equal but for h and w.
        pad_size: (height, width) of the batch; None takes the smallest size that holds all images.
        value: Value of the padding.
        always_mask: Return a mask also where nothing is padded.

    Returns:
        `pixel_values` `(B, C, H, W)`, and `pixel_mask` `(B, H, W)`, int64, 1 on real pixels; None if nothing is padded.

    Raises:
        ValueError: An image is larger than `pad_size`.
    """
    sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors]
    padded = largest_size(sizes, pad_size)
    needs_mask = always_mask or any(size != padded for size in sizes)
    return stack_padded(tensors, padded, value), real_pixels(sizes, padded) if needs_mask else None


def group_by_shape(
    shapes: Mapping[int, Size], batch_size: int, largest_padding: float, by_ratio: bool = False
) -> list[list[int]]:
    """Group images of similar shape into batches.

    Training groups by itself (`training.sampler`): it shuffles, and knows ratios but not sizes.

    Args:
        shapes: (height, width) of each image, by its index.
        batch_size: Largest number of images in a group.
        largest_padding: Area that padding may add to a group, relative to the area of the images; 0 groups equal
            shapes only, infinity limits nothing.
        by_ratio: Take images in the order of width / height, for sizes before resizing, instead of height and width.

    Returns:
        Groups of indices, in ascending order of their lowest index.

    Raises:
        ValueError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def order(index: int) -> tuple[float, Size, int]:
        height, width = shapes[index]
        return width / height if by_ratio else 0.0, (height, width), index

    groups: list[list[int]] = []
    for index in sorted(shapes, key=order):
        grown = [*groups[-1], index] if groups else [index]
        height, width = largest_size([shapes[member] for member in grown])
        own_area = sum(shapes[member][0] * shapes[member][1] for member in grown)
        padded_area = len(grown) * height * width
        if groups and len(grown) <= batch_size and padded_area <= own_area * (1 + largest_padding):
            groups[-1] = grown
        else:
            groups.append([index])
    return sorted(sorted(group) for group in groups)


def largest_size(sizes: Sequence[Size], pad_size: Size | None = None) -> Size:
    """The smallest size that holds all images, or `pad_size` where that is given.

    Args:
        sizes: (height, width) of each image, at least one.
        pad_size: (height, width) that the batch shall have whatever its images are.

    Raises:
        ValueError: an image is larger than `pad_size`.
    """
    if pad_size is None:
        return max(height for height, _ in sizes), max(width for _, width in sizes)
    for index, (height, width) in enumerate(sizes):
        if height > pad_size[0] or width > pad_size[1]:
            raise ValueError(
                f"images[{index}] is {height}×{width} (height × width) after resizing, "
                f"too large for pad_size {pad_size[0]}×{pad_size[1]}"
            )
    return pad_size


def zeros(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of zeros in memory from NumPy.

    NumPy asks the system for large pages, torch does not; in small ones the first touch of a batch takes longer than
    all that is computed for it.
    """
    return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def real_pixels(sizes: Sequence[Size], padded: Size) -> Tensor:
    """The mask `(B, H, W)` of a padded batch: int64, 1 where an image is, 0 where it was padded."""
    mask = zeros((len(sizes), *padded), torch.int64)
    for image_mask, (height, width) in zip(mask, sizes, strict=True):
        image_mask[:height, :width] = 1
    return mask


def stack_padded(tensors: Sequence[Tensor], padded: Size, value: float = 0) -> Tensor:
    """Stack tensors `(..., h, w)`, equal but for h and w, to `(B, ..., H, W)`; padding becomes `value`."""
    shape, first = (len(tensors), *tensors[0].shape[:-2], *padded), tensors[0]
    if first.device.type == "cpu" and first.dtype == torch.float32 and value == 0:
        batch = zeros(shape)
    else:
        batch = first.new_full(shape, value)
    for place, tensor in zip(batch, tensors, strict=True):
        place[..., : tensor.shape[-2], : tensor.shape[-1]] = tensor
    return batch


@dataclass(frozen=True)
class PreparedSize:
    """(height, width) of an original image, with its size for the model, without padding."""

    height: int
    width: int
    processed: Size

    def __iter__(self) -> Iterator[int]:
        return iter((self.height, self.width))


class DetrBatch(BatchFeature):
    """Output of the processor: `pixel_values`, `pixel_mask`, perhaps `labels`.

    The pipelines of transformers prepare each image alone, note its size in its batch as `target_size` and
    later concatenate the batches with `torch.cat`, which fails where sizes differ (stock: RuntimeError). So
    that such batches can be formed, from that note on the tensors pad themselves when they are concatenated.
    A note of bare numbers, as for segmentation, becomes a `PreparedSize`: post-processing gets nothing but
    the note, and has to cut the padding off the masks.
    """

    def __setitem__(self, key: str, item: Any) -> None:
        if key == "target_size" and isinstance(item, list):
            item = [PreparedSize(height, width, self._size_of(i)) for i, (height, width) in enumerate(item)]
        super().__setitem__(key, item)
        if key == "target_size":
            for name in ("pixel_values", "pixel_mask"):
                if isinstance(self.data.get(name), Tensor):
                    self.data[name] = self.data[name].as_subclass(_PadsInCat)

    def _size_of(self, index: int) -> Size:
        if "pixel_mask" not in self.data:
            height, width = self.data["pixel_values"][index].shape[-2:]
        else:
            height, width = sizes_of_real_pixels(self.data["pixel_mask"])[index].tolist()
        return height, width


class _PadsInCat(Tensor):
    """Batches `(B, ..., H, W)` that `torch.cat` joins to one batch of the largest H and W.

    Lives from a pipeline's preparation of an image to its next step: any other operation, moving it to a device
    included, gives an ordinary tensor.
    """

    ndim = 1  # the pipelines' collation concatenates what it takes for one-dimensional, and only that

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is torch.cat:
                images = [image for batch in args[0] for image in batch.as_subclass(Tensor)]
                return stack_padded(images, largest_size([(i.shape[-2], i.shape[-1]) for i in images]))
            result = func(*args, **(kwargs or {}))
            return result.as_subclass(Tensor) if isinstance(result, cls) else result
