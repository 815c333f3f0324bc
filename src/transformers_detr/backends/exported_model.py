"""Exported model with the interface of the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from transformers_detr.backends.registry import INPUTS
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.modeling_segmentation_detr import DetrSegmentationOutput
from transformers_detr.model.outputs_detr import DetrObjectDetectionOutput


class DeviceError(ValueError):
    """A backend cannot use the requested device; the message names the devices that it has."""


@dataclass(frozen=True)
class Engine:
    """A loaded graph.

    Attributes:
        run: Takes images `(B, 3, H, W)` float32 and a mask `(B, …, …)` int64, both of any size unless it is fixed;
            gives the outputs by name, on the CPU.
        fixed_size: The only (height, width) that `run` takes; None if it takes any.
    """

    run: Callable[..., dict[str, Any]]
    fixed_size: tuple[int, int] | None = None


def feed(inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Return the inputs of `Engine.run` as arrays, by name."""
    return {name: value.contiguous().numpy() for name, value in zip(INPUTS, inputs, strict=True)}


def fixed_size(size: Any) -> tuple[int, int] | None:
    """Return a graph's height and width if both are integers, None if they are free."""
    height, width = size
    return (height, width) if type(height) is int and type(width) is int else None


class ExportedModel:
    """Stands in for `DetrForObjectDetection` or `DetrForSegmentation`, for inference.

    Padding is treated as the graph was exported to do: kept out of the images where the backbone allowed that
    (`config.exact_padding`).

    Args:
        config: The model's configuration.
        engine: What runs it.
    """

    device = torch.device("cpu")
    """Where inputs are taken and outputs given, whatever the engine runs on."""

    dtype = torch.float32

    def __init__(self, config: DetrConfig, engine: Engine):
        self.config = config
        self.engine = engine

    @property
    def supports_exact_padding(self) -> bool:
        """Whether images of different sizes may share a batch without changing each other's results."""
        return bool(self.config.exact_padding)

    def eval(self) -> Self:
        """Itself: there is no other mode."""
        return self

    def __call__(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **options: Any) -> Any:
        """Run the model.

        Args:
            pixel_values: `(B, 3, H, W)`.
            pixel_mask: 1 for real pixels, `(B, H, W)`; None if nothing is padded.
            **options: Ignored: the graph decided when it was exported. It gives the masks of all queries.

        Returns:
            The output of the model it stands in for, with logits and boxes, and masks if it has any.

        Raises:
            ValueError: The images are larger than the size that was fixed at export.
        """
        pixel_values = pixel_values.to(self.device, torch.float32)
        size = self.engine.fixed_size
        if size is not None:
            pixel_values, pixel_mask = _on_canvas(pixel_values, pixel_mask, size)
        if pixel_mask is None:
            pixel_mask = torch.ones(len(pixel_values), 1, 1)  # enlarged in the graph
        found: dict[str, Any] = self.engine.run(pixel_values, pixel_mask.to(self.device, torch.int64))
        return (DetrSegmentationOutput if "pred_masks" in found else DetrObjectDetectionOutput)(**found)


def _on_canvas(pixel_values: Tensor, pixel_mask: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images and mask, padded to a size at the bottom and on the right."""
    height, width = pixel_values.shape[2:]
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"this model was exported for {size[0]}×{size[1]} (height × width), the images have {height}×{width}: "
            "use the image processor of its folder"
        )
    if pixel_mask is None:
        pixel_mask = pixel_values.new_ones((len(pixel_values), height, width))
    missing = (0, size[1] - width, 0, size[0] - height)
    return pad(pixel_values, missing), pad(pixel_mask, missing)
