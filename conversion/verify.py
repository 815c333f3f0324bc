"""Compare a converted model with the original's code, which torch.hub fetches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from original_files import ConversionError
from transformers_detr.hub.fingerprint import TOLERANCES
from transformers_detr.hub.published_checkpoints import DETR, Checkpoint

REPOSITORY = "facebookresearch/detr"
_ORIGINAL_NAMES = {"logits": "pred_logits", "pred_boxes": "pred_boxes", "pred_masks": "pred_masks"}

Original = Callable[[list[Tensor]], dict[str, Tensor]]


def verify(checkpoint: Checkpoint, weights: dict[str, Tensor], model: nn.Module) -> str:
    """Run the original's code and a converted model on the same images, alone and in a padded batch.

    Args:
        checkpoint: Which one.
        weights: Original names to tensors.
        model: The converted model, in evaluation mode.

    Returns:
        One line with the largest differences.

    Raises:
        ConversionError: If the original's code cannot be had, or a difference is too large.
    """
    if checkpoint.project is not DETR:
        raise ConversionError(f"{checkpoint.name}: torch.hub has no code of {checkpoint.project.name} to compare with")
    try:
        original = torch.hub.load(
            REPOSITORY,
            checkpoint.torch_hub_entry,
            pretrained=False,
            num_classes=len(checkpoint.id2label),
            trust_repo=True,
        )
    except Exception as error:
        # Network, hub and the original's own imports: whatever fails, there is nothing to compare with.
        raise ConversionError(f"the original's code cannot be loaded with torch.hub ({error})") from error
    original.load_state_dict(weights)
    differences = compare(original.eval(), model, made_up_images())
    return "equal to the original: largest difference " + ", ".join(
        f"{value:.1e} ({name})" for name, value in differences.items()
    )


def compare(original: Original, model: nn.Module, images: Sequence[Tensor]) -> dict[str, float]:
    """Largest differences between the outputs of the original and of a model, over images alone and together.

    Args:
        original: Takes a list of images and pads them itself, as the original's models do.
        model: Ours.
        images: Normalized pixels, `(3, H, W)` each.

    Returns:
        By name of the output.

    Raises:
        ConversionError: If a difference is above `TOLERANCES`, or not a number.
    """
    largest: dict[str, float] = {}
    for batch in [[image] for image in images] + [list(images)]:
        with torch.inference_mode():
            theirs = original(batch)
            ours: Any = model(**_padded(batch))
        for name, their_name in _ORIGINAL_NAMES.items():
            if their_name not in theirs:
                continue
            difference = (ours[name] - theirs[their_name].reshape(ours[name].shape)).abs().max().item()
            largest[name] = max(largest.get(name, 0.0), difference)
            if not difference <= TOLERANCES[name]:
                raise ConversionError(
                    f"{name} differ from the original's by {difference:.1e}, {TOLERANCES[name]:.0e} is allowed"
                )
    return largest


def made_up_images() -> list[Tensor]:
    """Two normalized images of different sizes: noise at several scales, the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for height, width in ((427, 640), (512, 384)):
        layers = []
        for scale in (1, 8, 64):
            noise = torch.randn(1, 3, height // scale, width // scale, generator=generator)
            layers.append(interpolate(noise, (height, width), mode="bilinear"))
        images.append(torch.stack(layers).mean(0)[0])
    return images


def _padded(images: list[Tensor]) -> dict[str, Tensor]:
    """The model's inputs for a batch: padded with zeros at the bottom and right, as in the original."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    margins = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
    pairs = list(zip(images, margins, strict=True))
    return {
        "pixel_values": torch.stack([pad(image, margin) for image, margin in pairs]),
        "pixel_mask": torch.stack([pad(image.new_ones(image.shape[1:]), margin) for image, margin in pairs]).long(),
    }
