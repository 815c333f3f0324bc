"""PyTorch backend: write and run programs of `torch.export`, which need no model code of this package."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from transformers_detr.backends.exported_model import Engine, fixed_size
from transformers_detr.backends.registry import OUTPUTS, Precision
from transformers_detr.backends.traced_graph import ExportSource
from transformers_detr.hub.loading import DeviceError


def export(source: ExportSource, path: Path, precision: Precision) -> None:
    """Write a model as a `.pt2` file.

    Args:
        source: The model.
        path: The file.
        precision: "fp32".

    Raises:
        ValueError: torch.export cannot store the model.
    """
    program = source.program(precision)
    try:
        torch.export.save(program, path)
    except Exception as error:  # of torch's various kinds, depending on how the backbone's library computes sizes
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"torch.export cannot store this model with dynamic sizes ({reason}); export a fixed size, or use onnx"
        ) from error


def load(path: Path, device: str) -> Engine:
    """Load a program of `torch.export`.

    Args:
        path: A `.pt2` file.
        device: "cpu": a program stays on the device where it was traced.

    Raises:
        DeviceError: Another device is asked for.
    """
    if device != "cpu":
        raise DeviceError(
            f"device {device!r} cannot be used: exported programs run on the CPU only; use the model's weights"
        )
    program = torch.export.load(path)
    module = program.module()
    images = next(node for node in program.graph.nodes if node.name == "pixel_values").meta["val"]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(zip(OUTPUTS, module(*inputs), strict=False))

    return Engine(run, fixed_size(images.shape[2:]))
