"""How far an exported model is from the PyTorch model it was made of, on pictures.

The yardstick is always the PyTorch model on each picture alone, in float32: so a padded batch is held to what its
pictures give alone. Where a backbone does not allow exact padding, batches are held to PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from transformers_detr.model.boxes_detr import boxes_to_pixels, cxcywh_to_xyxy
from transformers_detr.model.padding_detr import largest_size, real_pixels, stack_padded

BOX_TOLERANCE_PX, SCORE_TOLERANCE = 0.5, 1e-3
"""Largest differences that a float32 export may show, in pixels of the picture and of a probability."""

CONFIDENT = 0.5
_BATCH = 4
_ODD_SIZES = (
    (33, 65),
    (97, 131),
    (251, 333),
)  # no multiples of the backbone's strides; the first the smallest possible


@dataclass(frozen=True)
class Difference:
    """The largest differences seen under one condition.

    Attributes:
        condition: "alone", "in a batch" or "odd sizes".
        pictures: Pictures compared.
        box_px: Of a box's side, any query's, in pixels of the picture.
        score: Of a class probability, any query's and class's.
        confident: Queries that PyTorch gives a class with more than `CONFIDENT`.
        confident_box_px: Of a box's side of these queries.
        changed: How many of these queries get another class, or none.
        mask_pixels: Part of all masks' pixels that changed sides; None without masks.
    """

    condition: str
    pictures: int
    box_px: float
    score: float
    confident: int
    confident_box_px: float
    changed: int
    mask_pixels: float | None

    @property
    def within_tolerance(self) -> bool:
        """Whether a float32 export may differ so much; numbers that are none never are."""
        return self.box_px <= BOX_TOLERANCE_PX and self.score <= SCORE_TOLERANCE


@dataclass(frozen=True)
class Condition:
    """Images under which models are compared.

    Attributes:
        name: What it is called.
        batches: Images as the models take them, `(3, H, W)` each.
        sizes: (height, width) of each image's picture, in which boxes are measured.
    """

    name: str
    batches: Sequence[Sequence[Tensor]]
    sizes: Sequence[tuple[int, int]]


class Yardstick:
    """A PyTorch model and what it says of each image alone, found once however many exports are held to it.

    Args:
        model: In evaluation mode, on the CPU, in float32.
    """

    def __init__(self, model: Any):
        self.model = model
        self._answers: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}  # by the image's id, and so with the image

    def alone(self, image: Tensor) -> dict[str, Tensor]:
        """What it says of an image `(3, H, W)`, by name."""
        if id(image) not in self._answers:
            self._answers[id(image)] = image, _run(self.model, [image])[0]
        return self._answers[id(image)][1]

    def in_batch(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """What it says of each image of a batch."""
        return _run(self.model, images)


def conditions(
    processor: Any, pictures: Sequence[Image.Image], fixed_size: tuple[int, int] | None = None
) -> list[Condition]:
    """Pictures alone, in padded batches, and at sizes that divide badly.

    Args:
        processor: The image processor of the exported folder.
        pictures: RGB pictures, at least one; batches pad only those whose sizes differ.
        fixed_size: The only (height, width) that the exported graphs take, if they do; odd sizes beyond are left out.
    """
    pixels = [_pixels(processor, picture) for picture in pictures]
    sizes = [(picture.height, picture.width) for picture in pictures]
    limit = fixed_size or max(_ODD_SIZES)
    odd_sizes = [size for size in _ODD_SIZES if size[0] <= limit[0] and size[1] <= limit[1]]
    odd = [_pixels(processor, pictures[0].resize(size[::-1]), do_resize=False) for size in odd_sizes]
    found = [
        Condition("alone", [[image] for image in pixels], sizes),
        Condition("in a batch", [pixels[first : first + _BATCH] for first in range(0, len(pixels), _BATCH)], sizes),
        Condition("odd sizes", [[image] for image in odd], odd_sizes),
    ]
    return [condition for condition in found if condition.batches]


def _pixels(processor: Any, picture: Image.Image, **options: Any) -> Tensor:
    result: Tensor = processor(images=picture, do_pad=False, return_tensors="pt", **options)["pixel_values"][0]
    return result


def difference(yardstick: Yardstick, other: Any, condition: Condition) -> Difference:
    """Compare a model, called as PyTorch's is, with the yardstick."""
    wanted, found = [], []
    for batch in condition.batches:
        together = len(batch) > 1 and not other.supports_exact_padding
        wanted += yardstick.in_batch(batch) if together else [yardstick.alone(image) for image in batch]
        found += _run(other, batch)
    boxes, scores, masks = [], [], []
    confident = changed = 0
    confident_boxes = [0.0]
    for size, want, got in zip(condition.sizes, wanted, found, strict=True):
        distance = (_boxes_px(got, size) - _boxes_px(want, size)).abs().amax(-1)  # (Q,)
        before, after = want["logits"].softmax(-1), got["logits"].softmax(-1)
        sure = before[:, :-1].amax(-1) > CONFIDENT
        boxes.append(_largest(distance))
        scores.append(_largest((after - before).abs()))
        confident += int(sure.sum())
        confident_boxes.append(_largest(distance[sure]))
        changed += int((before.argmax(-1) != after.argmax(-1))[sure].sum())
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
    """Outputs of each image of a batch, by name."""
    shapes = [(image.shape[1], image.shape[2]) for image in images]
    padded = largest_size(shapes)
    mask = None if set(shapes) == {padded} else real_pixels(shapes, padded)
    exact = mask is not None and model.supports_exact_padding
    outputs = model(pixel_values=stack_padded(images, padded), pixel_mask=mask, exact_padding=exact)
    names = [name for name in ("logits", "pred_boxes", "pred_masks") if outputs.get(name) is not None]
    return [{name: outputs[name][index] for name in names} for index in range(len(images))]


def _boxes_px(outputs: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    return boxes_to_pixels(cxcywh_to_xyxy(outputs["pred_boxes"]), torch.tensor(size))


def _largest(values: Tensor) -> float:
    """The largest value; infinite if one is no number, 0 if there is none."""
    return float(values.nan_to_num(nan=float("inf")).max()) if values.numel() else 0.0
