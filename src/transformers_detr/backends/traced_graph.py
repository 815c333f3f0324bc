"""Graph of a model for export: tensors in, tensors out, for every batch size, height and width.

Exact padding is part of the graph wherever the backbone allows it: each image of a batch of mixed sizes then gets the
result that it gets alone, in any runtime. Without padding it changes nothing but the time.

The mask may be coarser than the image and is enlarged to its size: transformers.js passes 64 × 64 ones for any image.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from transformers_detr.backends.registry import INPUTS, OUTPUTS, Precision
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

SMALLEST_SIDE = 33
"""Side of the smallest image in pixels: two cells of the last feature map, since one cell is traced as a constant."""

_EXAMPLE_SIZE = (200, 264)


class DetrGraph(nn.Module):
    """A model reduced to its inputs and outputs, which are float32 whatever the dtype of the model.

    Args:
        model: For detection or segmentation. It is copied, not changed.
        dtype: What to compute in.
    """

    def __init__(self, model: DetrPreTrainedModel, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.exact_padding = model.supports_exact_padding  # determined before tracing, which cannot record the check
        # Fused in float32, before any conversion: half precision could not hold the variances.
        self.model = copy.deepcopy(model).cpu().float().eval().fuse()
        self.model.config._attn_implementation = "eager"  # fused attention is decomposed with checks for rows of NaN
        self.model.to(dtype)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[Tensor, ...]:
        """Map images `(B, C, H, W)` and a mask of any height and width, `(B, …, …)` int64, to the `OUTPUTS`."""
        mask = nn.functional.interpolate(pixel_mask[:, None].float(), size=pixel_values.shape[-2:])[:, 0]
        outputs = self.model(
            pixel_values=pixel_values,
            pixel_mask=mask > 0.5,
            exact_padding=self.exact_padding,
            return_dict=True,
        )
        return tuple(outputs[name].float() for name in OUTPUTS if name in outputs)


@dataclass(frozen=True)
class ExportSource:
    """A model to export, with what several backends share: traced programs and files made on the way.

    Attributes:
        model: For detection or segmentation.
        scratch: Folder for files that several backends start from.
        fixed_size: The only (height, width) that the graphs take; None leaves sizes free.
        calibration: Returns batches to find 8-bit ranges with, by input name; None rounds weights only.
        progress: Called with the next step.
    """

    model: DetrPreTrainedModel
    scratch: Path
    fixed_size: tuple[int, int] | None = None
    calibration: Callable[[], Iterable[dict[str, Any]]] | None = None
    progress: Callable[[str], None] = lambda step: None
    _programs: dict[Precision, ExportedProgram] = field(default_factory=dict, init=False)

    def program(self, precision: Precision) -> ExportedProgram:
        """Return the traced model that computes in "fp32" or "fp16", traced on first use."""
        if precision not in self._programs:
            self.progress(f"tracing in {precision}")
            dtype = torch.float16 if precision == "fp16" else torch.float32
            self._programs[precision] = trace(self.model, dtype, self.fixed_size)
        return self._programs[precision]


def output_names(model: DetrPreTrainedModel) -> list[str]:
    """Return the names of the outputs of a model's graph."""
    return list(OUTPUTS[:3] if hasattr(model, "mask_head") else OUTPUTS[:2])


def dynamic_shapes(fixed_size: tuple[int, int] | None) -> dict[str, dict[int, Any]]:
    """Return the free dimensions of each input, by index."""
    batch = Dim("batch", min=1)
    shapes: dict[str, dict[int, Any]] = {name: {0: batch} for name in INPUTS}
    if fixed_size is None:
        shapes["pixel_values"] |= {2: Dim("height", min=SMALLEST_SIDE), 3: Dim("width", min=SMALLEST_SIDE)}
        shapes["pixel_mask"] |= {1: Dim("mask_height", min=1), 2: Dim("mask_width", min=1)}
    return shapes


def trace(
    model: DetrPreTrainedModel, dtype: torch.dtype = torch.float32, fixed_size: tuple[int, int] | None = None
) -> ExportedProgram:
    """Turn a model into a graph with a free batch size, and free sizes unless they are fixed.

    Args:
        model: In any mode and dtype, on any device.
        dtype: What the graph computes in; its inputs and outputs are float32.
        fixed_size: Height and width of images and mask; None leaves them free, from `SMALLEST_SIDE` pixels a side.
    """
    graph = DetrGraph(model, dtype).eval()
    height, width = fixed_size or _EXAMPLE_SIZE
    # A batch of one would be traced as a constant, and a mask of the image's size would be tied to it.
    mask_size = fixed_size or (_EXAMPLE_SIZE[0] // 2, _EXAMPLE_SIZE[1] // 2)
    example = (torch.zeros(2, model.config.num_channels, height, width), torch.ones(2, *mask_size, dtype=torch.int64))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.export.export(
            graph,
            example,
            dynamic_shapes=dynamic_shapes(fixed_size),
            # Conditions that hold for every size, but that the exporter cannot prove (poolings that round up): assert.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    program.graph_module.graph.eliminate_dead_code()  # unused operations cannot always be stored
    return program
