"""Parity of an exported model with its PyTorch model, measured on images.

The reference is the float32 PyTorch model on each image alone, also for the images of a padded batch. Where a backbone
does not allow exact padding, batches are compared with PyTorch's batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transformers_detr.model.boxes_detr import boxes_to_pixels, cxcywh_to_xyxy
from transformers_detr.model.image_io_detr import Pixels, pixels_size
from transformers_detr.model.padding_detr import pad_batch

BOX_TOLERANCE_PX, SCORE_TOLERANCE = 0.5, 1e-3
"""Largest differences that a float32 export may show, in pixels of the image and as a probability."""

CONFIDENT = 0.5
_BATCH = 4
_ODD_SIZES = ((33, 65), (97, 131), (251, 333))
"""Sizes that are not multiples of the backbone's strides; the first is the smallest possible."""


@dataclass(frozen=True)
class Difference:
    """Largest differences under one condition.

    Attributes:
        condition: "alone", "in a batch" or "odd sizes".
        images: Number of images compared.
        box_px: Of a side of a box of any query, in pixels of the image.
        score: Of the probability of any class of any query.
        confident: Number of queries with a class that PyTorch scores above `CONFIDENT`.
        confident_box_px: Of a side of a box of these queries.
        changed: Number of these queries that get another class, or none.
        mask_pixels: Fraction of mask pixels that changed between object and background; None without masks.
    """

    condition: str
    images: int
    box_px: float
    score: float
    confident: int
    confident_box_px: float
    changed: int
    mask_pixels: float | None

    @property
    def within_tolerance(self) -> bool:
        """True if the differences are allowed for a float32 export; NaN and infinity never are."""
        return self.box_px <= BOX_TOLERANCE_PX and self.score <= SCORE_TOLERANCE


@dataclass(frozen=True)
class Condition:
    """Images under which models are compared.

    Attributes:
        name: Name of the condition.
        batches: Images as the models take them, `(C, H, W)` each.
        sizes: Original (height, width) of each image, in which boxes are measured.
    """

    name: str
    batches: Sequence[Sequence[Tensor]]
    sizes: Sequence[tuple[int, int]]


class Reference:
    """PyTorch model with its outputs for single images, computed once for all exports compared with it.

    Args:
        model: In evaluation mode, on the CPU, in float32.
    """

    def __init__(self, model: Any):
        self.model = model
        self._outputs: dict[
            int, tuple[Tensor, dict[str, Tensor]]
        ] = {}  # by id(image); holding the image keeps its id valid

    def alone(self, image: Tensor) -> dict[str, Tensor]:
        """Return the outputs for an image `(C, H, W)`, by name."""
        if id(image) not in self._outputs:
            self._outputs[id(image)] = image, _run(self.model, [image])[0]
        return self._outputs[id(image)][1]

    def in_batch(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return the outputs for each image of a batch."""
        return _run(self.model, images)


def conditions(processor: Any, images: Sequence[Pixels], fixed_size: tuple[int, int] | None = None) -> list[Condition]:
    """Build the conditions: images alone, in padded batches, and at sizes that no stride divides.

    Args:
        processor: The image processor of the exported folder.
        images: Images with the channels of the models, at least one; a batch is padded only if sizes differ.
        fixed_size: The only (height, width) that the graphs take; larger odd sizes are left out. None: any size.
    """
    pixels = [_pixels(processor, image) for image in images]
    sizes = [pixels_size(image) for image in images]
    limit = fixed_size or max(_ODD_SIZES)
    odd_sizes = [size for size in _ODD_SIZES if size[0] <= limit[0] and size[1] <= limit[1]]
    odd = [_pixels(processor, images[0], do_resize=True, size=size) for size in odd_sizes]
    found = [
        Condition("alone", [[one] for one in pixels], sizes),
        Condition("in a batch", [pixels[first : first + _BATCH] for first in range(0, len(pixels), _BATCH)], sizes),
        Condition("odd sizes", [[one] for one in odd], odd_sizes),
    ]
    return [condition for condition in found if condition.batches]


def _pixels(processor: Any, image: Pixels, **options: Any) -> Tensor:
    result: Tensor = processor(images=image, do_pad=False, return_tensors="pt", **options)["pixel_values"][0]
    return result


def difference(reference: Reference, other: Any, condition: Condition) -> Difference:
    """Compare a model that is called like the PyTorch model with the reference."""
    wanted, found = [], []
    for batch in condition.batches:
        together = len(batch) > 1 and not other.supports_exact_padding
        wanted += reference.in_batch(batch) if together else [reference.alone(image) for image in batch]
        found += _run(other, batch)
    boxes, scores, masks = [], [], []
    confident = changed = 0
    confident_boxes = [0.0]
    for size, want, got in zip(condition.sizes, wanted, found, strict=True):
        distance = (_boxes_px(got, size) - _boxes_px(want, size)).abs().amax(-1)  # (Q,)
        before, after = want["logits"].softmax(-1), got["logits"].softmax(-1)
        is_confident = before[:, :-1].amax(-1) > CONFIDENT
        boxes.append(_largest(distance))
        scores.append(_largest((after - before).abs()))
        confident += int(is_confident.sum())
        confident_boxes.append(_largest(distance[is_confident]))
        changed += int((before.argmax(-1) != after.argmax(-1))[is_confident].sum())
        if "pred_masks" in want:
            height, width = want["pred_masks"].shape[1:]
            masks.append(
                ((got["pred_masks"][:, :height, :width] > 0) != (want["pred_masks"] > 0)).float().mean().item()
            )
    return Difference(
        condition.name,
        len(wanted),
        max(boxes),
        max(scores),
        confident,
        max(confident_boxes),
        changed,
        max(masks) if masks else None,
    )


@torch.inference_mode()
def _run(model: Any, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Return the outputs of each image of a batch, by name."""
    pixel_values, mask = pad_batch(images)
    exact = mask is not None and model.supports_exact_padding
    outputs = model(pixel_values=pixel_values, pixel_mask=mask, exact_padding=exact)
    names = [name for name in ("logits", "pred_boxes", "pred_masks") if outputs.get(name) is not None]
    return [{name: outputs[name][index] for name in names} for index in range(len(images))]


def _boxes_px(outputs: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    return boxes_to_pixels(cxcywh_to_xyxy(outputs["pred_boxes"]), torch.tensor(size))


def _largest(values: Tensor) -> float:
    """Return the largest value; infinity if one is NaN, 0 if there are no values."""
    return float(values.nan_to_num(nan=float("inf")).max()) if values.numel() else 0.0
