"""Exported model with the interface of the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from transformers_detr.backends.registry import INPUTS
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.modeling_segmentation_detr import DetrSegmentationOutput
from transformers_detr.model.outputs_detr import DetrObjectDetectionOutput


@dataclass(frozen=True)
class Engine:
    """A loaded graph.

    Attributes:
        run: Function of images `(B, C, H, W)` float32 and a mask `(B, …, …)` int64, of any size unless it is fixed.
            Returns the outputs by name, on the CPU.
        fixed_size: The only (height, width) that `run` takes; None if it takes any size.
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
    """Replacement for `DetrForObjectDetection` or `DetrForSegmentation` in inference.

    The exported graph decides how padding is treated: it does not influence the images where the backbone allows exact
    padding (`config.exact_padding`).

    Args:
        config: The model's configuration.
        engine: The loaded graph.
        graph_files: Files that the graph was loaded from.
    """

    device = torch.device("cpu")
    """Device of inputs and outputs, whatever the backend runs on."""

    dtype = torch.float32

    def __init__(self, config: DetrConfig, engine: Engine, graph_files: Sequence[Path] = ()):
        self.config = config
        self.engine = engine
        self.graph_files = tuple(graph_files)

    @property
    def supports_exact_padding(self) -> bool:
        """True if images of different sizes can share a batch without changing each other's results."""
        return bool(self.config.exact_padding)

    def eval(self) -> Self:
        """Return the model itself; it has no other mode."""
        return self

    def __call__(self, pixel_values: Tensor, pixel_mask: Tensor | None = None, **options: Any) -> Any:
        """Run the model.

        Args:
            pixel_values: `(B, C, H, W)`.
            pixel_mask: 1 for real pixels, `(B, H, W)`; None if nothing is padded.
            **options: Ignored, since the graph is fixed. It returns the masks of all queries.

        Returns:
            The output of the PyTorch model, with logits and boxes, and masks for segmentation.

        Raises:
            ValueError: The images are larger than the size that was fixed at export.
        """
        pixel_values = pixel_values.to(self.device, torch.float32)
        size = self.engine.fixed_size
        if size is not None:
            pixel_values, pixel_mask = _on_canvas(pixel_values, pixel_mask, size)
        if pixel_mask is None:
            pixel_mask = torch.ones(len(pixel_values), 1, 1)  # the graph enlarges it
        found: dict[str, Any] = self.engine.run(pixel_values, pixel_mask.to(self.device, torch.int64))
        return (DetrSegmentationOutput if "pred_masks" in found else DetrObjectDetectionOutput)(**found)


def _on_canvas(pixel_values: Tensor, pixel_mask: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return images and mask, padded to a size at the bottom and on the right."""
    height, width = pixel_values.shape[2:]
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"this model was exported for {size[0]}×{size[1]} (height × width), the images have {height}×{width}: "
            "use the image processor of the exported folder"
        )
    if pixel_mask is None:
        pixel_mask = pixel_values.new_ones((len(pixel_values), height, width))
    missing = (0, size[1] - width, 0, size[0] - height)
    return pad(pixel_values, missing), pad(pixel_mask, missing)
