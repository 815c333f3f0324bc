"""Exact padding: a backbone gives an image the same features alone and in any padded batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .cpu_kernels_detr import convolve_add_relu, convolve_relu


class ExactPlan(NamedTuple):
    """Spatial operations of a backbone, as exponents of the stride: level `l` is 1 / 2**l of the image.

    Attributes:
        calls: Level of the input of each spatial convolution or pooling, in the order in which they run.
        outputs: Level of each feature map of the pyramid.
    """

    calls: tuple[int, ...]
    outputs: tuple[int, ...]


class ClearPadding(TorchFunctionMode):
    """While active, spatial convolutions see zeros, and max poolings nothing, where the image has ended.

    Behind the first convolution the padded area is no longer zero, and the next kernel that straddles the
    border would carry it into the image. A kernel of one pixel never does.

    The levels come from a plan and not from the sizes at hand, so that a compiled or exported graph holds for
    every size. Modes are local to a thread, so one model may run in several.

    Args:
        mask: Real pixels are True, `(B, H, W)`.
        plan: The backbone's plan; None while it is being made, when sizes are plain numbers.

    Source:
        A departure from the original, whose predictions depend on the padding (its README warns of it).
    """

    records = False  # see `is_recorded`

    def __init__(self, mask: Tensor, plan: ExactPlan | None):
        super().__init__()
        self.masks = [mask[:, None]]  # (B, 1, h, w) at each level, sizes rounded up
        for _ in range(5):
            self.masks.append(_every_second(self.masks[-1]))
        self.plan = plan
        self.calls: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Clear the padded area of the input of spatial functions."""
        kwargs = kwargs or {}
        if func in (torch.conv2d, convolve_relu, convolve_add_relu):
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if max(weight.shape[-2:]) > 1:
                args = (self._clear(args[0]), *args[1:])
        elif func in (nn.functional.max_pool2d, torch.max_pool2d):
            real, dtype = self._real(args[0]), args[0].dtype
            lowest = torch.finfo(dtype).min  # which ONNX Runtime's pooling gives for nothing, in place of -inf
            limit = torch.full_like(real, float("inf"), dtype=dtype).masked_fill(~real, lowest)
            pooled = func(torch.minimum(args[0], limit), *args[1:], **kwargs)
            return torch.where(pooled > lowest, pooled, 0.0)  # zero where a window saw nothing
        return func(*args, **kwargs)

    def _clear(self, features: Tensor) -> Tensor:
        real = self._real(features)
        if self.calls[-1] == 0:  # a caller's own pixels, which may be NaN where the image has ended
            return torch.where(real, features, 0.0)
        return features * real.to(features.dtype)

    def _real(self, features: Tensor) -> Tensor:
        """Mask `(B, 1, h, w)` of the cells of features `(B, channels, h, w)` that show the image."""
        level = self.level_of(features) if self.plan is None else self.plan.calls[len(self.calls)]
        self.calls.append(level)
        return self.masks[level]

    def level_of(self, features: Tensor) -> int:
        """The level whose size features `(B, channels, h, w)` have.

        Raises:
            ValueError: The size is no repeated halving of the batch's size, rounded up.
        """
        for level, mask in enumerate(self.masks):
            if mask.shape[-2:] == features.shape[-2:]:
                return level
        raise ValueError(f"features of {tuple(features.shape[-2:])} cells are no halving of the batch's size")


def _every_second(mask: Tensor) -> Tensor:
    """Every second row and column.

    By a pooling, so that an exporter sees the very size that a convolution gives, which it cannot prove equal to that
    of a slice with steps.
    """
    return nn.functional.max_pool2d(mask.to(torch.float32), kernel_size=1, stride=2) > 0
