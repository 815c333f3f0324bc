"""Targets: the labels of a batch, checked once on the host and laid one after another.

A `Targets` needs no further checks: the matcher and the loss rely on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Slack for coordinates that rounding has carried over the edge of [0, 1].
ROUNDING = 1e-3


@dataclass(frozen=True)
class Targets:
    """The `T` objects of a batch of `B` images, image after image.

    Attributes:
        class_labels: `(T,)` int64, class ids.
        boxes_cxcywh: `(T, 4)` float32, relative to the unpadded image.
        image: `(T,)` int64, the index in the batch of the image of each object.
        counts: number of objects of each image, `B` of them, `T` in all.
        masks: `(T, H, W)` bool on the padded canvas, or None where no masks were asked for.
    """

    class_labels: Tensor
    boxes_cxcywh: Tensor
    image: Tensor
    counts: tuple[int, ...]
    masks: Tensor | None = None


def read_targets(
    labels: Sequence[Mapping[str, Tensor]],
    *,
    batch_size: int,
    num_queries: int,
    num_classes: int,
    device: torch.device | str = "cpu",
    mask_size: tuple[int, int] | None = None,
) -> Targets:
    """Check the labels of a batch and lay their objects one after another; one transfer to the host.

    Args:
        labels: a mapping for each image, with `class_labels` `(N,)` integers, `boxes` `(N, 4)` floats, cxcywh
            relative to the unpadded image, and, where `mask_size` is given, `masks` `(N, h, w)`, non-zero on
            the object. `image_id` serves to name the image in errors; other keys are ignored.
        batch_size: number of images that the model saw.
        num_queries: most objects an image may have.
        num_classes: number of classes; "no object" is not one.
        device: where the targets are wanted.
        mask_size: height and width of the padded batch, when masks are wanted.

    Returns:
        The objects of all images, in their order.

    Raises:
        TypeError: an entry is not a mapping, or a value not a tensor.
        ValueError: the number of labels is not `batch_size`; a key is missing; a shape, dtype or length is
            wrong; an image has more than `num_queries` objects; a class id is outside [0, `num_classes`); a
            box is not finite or has a center or size outside [0, 1] (a corner may leave the image); a mask
            is larger than `mask_size`. The message names image, annotation, rule and value.
    """
    if len(labels) != batch_size:
        raise ValueError(f"labels must hold one entry per image: got {len(labels)} for {batch_size} images")
    for index in range(batch_size):
        _check_form(labels, index, num_queries, mask_size)
    counts = tuple(len(label["class_labels"]) for label in labels)
    class_labels = torch.cat([label["class_labels"].long() for label in labels])
    boxes_cxcywh = torch.cat([label["boxes"].float().reshape(-1, 4) for label in labels])
    _check_values(labels, counts, class_labels, boxes_cxcywh, num_classes)
    image = torch.repeat_interleave(torch.arange(batch_size), torch.tensor(counts))
    return Targets(
        class_labels=class_labels.to(device, non_blocking=True),
        boxes_cxcywh=boxes_cxcywh.to(device, non_blocking=True),
        image=image.to(device, non_blocking=True),
        counts=counts,
        masks=None if mask_size is None else _pad_masks(labels, counts, mask_size, device),
    )


def _check_form(
    labels: Sequence[Mapping[str, Tensor]], index: int, num_queries: int, mask_size: tuple[int, int] | None
) -> None:
    """Check what shows without a look at the values: keys, types, shapes, dtypes, lengths."""
    label = labels[index]
    if not isinstance(label, Mapping):
        raise TypeError(f"labels[{index}] must be a mapping, got {type(label).__name__}")
    for key in ("class_labels", "boxes") if mask_size is None else ("class_labels", "boxes", "masks"):
        if key not in label:
            raise ValueError(f"{_name(labels, index)} has no {key!r}; its keys are {sorted(label)}")
        if not isinstance(label[key], Tensor):
            raise TypeError(f"{_name(labels, index)}: {key} must be a tensor, got {type(label[key]).__name__}")
    ids, boxes = label["class_labels"], label["boxes"]
    count = ids.numel()
    if ids.ndim != 1 or (count and (ids.is_floating_point() or ids.dtype == torch.bool)):
        raise ValueError(f"{_name(labels, index)}: class_labels must be (N,) integers, got {_describe(ids)}")
    if boxes.numel() and (boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point()):
        raise ValueError(f"{_name(labels, index)}: boxes must be (N, 4) floats, got {_describe(boxes)}")
    if boxes.numel() != 4 * count:
        raise ValueError(
            f"{_name(labels, index)}: boxes and class_labels must be equally many, got {boxes.numel() // 4} and {count}"
        )
    if count > num_queries:
        raise ValueError(
            f"{_name(labels, index)} has {count} objects, more than the model's {num_queries} queries: "
            f"annotations {num_queries} and up could never be found"
        )
    if mask_size is not None and count:
        masks = label["masks"]
        if masks.ndim != 3 or len(masks) != count:
            raise ValueError(f"{_name(labels, index)}: masks must be ({count}, h, w), got {_describe(masks)}")
        if masks.shape[1] > mask_size[0] or masks.shape[2] > mask_size[1]:
            raise ValueError(
                f"{_name(labels, index)}: masks must lie within the padded batch of (height, width) "
                f"{mask_size}, got {tuple(masks.shape[1:])}"
            )


def _check_values(
    labels: Sequence[Mapping[str, Tensor]],
    counts: tuple[int, ...],
    class_labels: Tensor,
    boxes_cxcywh: Tensor,
    num_classes: int,
) -> None:
    """Check class ids `(T,)` and boxes `(T, 4)`, with one transfer to the host for both."""
    table = torch.cat([class_labels[:, None].float(), boxes_cxcywh], dim=1).cpu()
    ids, boxes = table[:, 0], table[:, 1:]
    rules = (
        ((ids < 0) | (ids >= num_classes), "class_labels", f"a class id must be in [0, {num_classes})"),
        (~boxes.isfinite().all(1), "boxes", "a box must be finite"),
        (
            ((boxes < -ROUNDING) | (boxes > 1 + ROUNDING)).any(1),
            "boxes",
            "center x, center y, width and height must be relative to the image, in [0, 1]",
        ),
    )
    for broken, key, rule in rules:
        if not broken.any():
            continue
        annotation = int(broken.nonzero()[0])
        index = 0
        while annotation >= counts[index]:
            annotation -= counts[index]
            index += 1
        value = labels[index][key][annotation].tolist()
        raise ValueError(f"{_name(labels, index)}, annotation {annotation}: {rule}, got {value}")


def _pad_masks(
    labels: Sequence[Mapping[str, Tensor]],
    counts: tuple[int, ...],
    mask_size: tuple[int, int],
    device: torch.device | str,
) -> Tensor:
    """The masks of all objects `(T, H, W)`, False where their image was padded."""
    padded = torch.zeros(sum(counts), *mask_size, dtype=torch.bool, device=device)
    for label, rows in zip(labels, padded.split(counts), strict=True):
        if len(rows):
            height, width = label["masks"].shape[1:]
            rows[:, :height, :width] = label["masks"].to(device).bool()
    return padded


def _name(labels: Sequence[Mapping[str, Tensor]], index: int) -> str:
    """Name an image in errors: its place in the batch and, where known, its id."""
    if "image_id" not in labels[index]:
        return f"labels[{index}]"
    image_id = labels[index]["image_id"]
    return f"labels[{index}] (image_id {image_id.item() if isinstance(image_id, Tensor) else image_id})"


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
