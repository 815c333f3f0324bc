"""Fusing of frozen norms into convolutions, in place and reversible, for inference.

Works for any backbone: which norm follows which convolution is found by running the backbone once on a small image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .frozen_batch_norm_detr import DetrFrozenBatchNorm2d


class Replaced(NamedTuple):
    """A module that was replaced: its parent, its name there, and the module itself."""

    parent: nn.Module
    name: str
    module: nn.Module


@torch.no_grad()
def fuse_batch_norms(backbone: nn.Module, num_channels: int) -> list[Replaced]:
    """Replace each convolution whose output only a frozen norm takes by one that includes the norm.

    The norm is replaced by its activation, or by nothing. A backbone that does not take small images is left as it is.

    Args:
        backbone: The backbone.
        num_channels: Channels of its input.

    Returns:
        What was replaced; see `restore`.
    """
    parents = {child: (parent, name) for parent in backbone.modules() for name, child in parent.named_children()}
    replaced = []
    for convolution, norm in _pairs(backbone, num_channels):
        weight, bias = norm.folded_into(convolution)
        for module, substitute in ((convolution, _with(convolution, weight, bias)), (norm, norm.act or nn.Identity())):
            parent, name = parents[module]
            setattr(parent, name, substitute.train(module.training))
            replaced.append(Replaced(parent, name, module))
    return replaced


def restore(replaced: list[Replaced]) -> None:
    """Undo `fuse_batch_norms`, on the device and in the dtype that the modules have now."""
    for parent, name, module in replaced:
        current = next(iter(getattr(parent, name).parameters()), None)
        if current is not None:
            place = current.device, current.dtype
        setattr(parent, name, module.to(*place).train(getattr(parent, name).training))


def _with(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution with the places of another, and weights of its own."""
    fused = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        convolution.groups,
        padding_mode=convolution.padding_mode,
        device="meta",
    )
    fused.weight, fused.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return fused


def _pairs(backbone: nn.Module, num_channels: int) -> list[tuple[nn.Conv2d, DetrFrozenBatchNorm2d]]:
    """Return each convolution whose output only a frozen norm takes, with this norm; none if layers were moved."""
    if any("forward" in vars(module) for module in backbone.modules()):  # as accelerate does to load weights at need
        return []
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, DetrFrozenBatchNorm2d, Tensor]] = []

    def remember(module: nn.Module, inputs: Any, output: Tensor) -> None:
        outputs[id(output)] = (module, output)  # type: ignore[assignment]

    def pair(module: Any, inputs: Any) -> tuple[Tensor]:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module, inputs[0]))
        return (inputs[0].detach(),)  # one use, and another tensor from here on

    hooks = [
        module.register_forward_pre_hook(pair)
        if type(module) is DetrFrozenBatchNorm2d
        else module.register_forward_hook(remember)
        for module in backbone.modules()
        if type(module) in (nn.Conv2d, DetrFrozenBatchNorm2d)
    ]
    training, uses = backbone.training, _Uses()
    try:
        example = next(backbone.parameters())
        with uses:
            backbone.eval()(torch.zeros(1, num_channels, 64, 64, device=example.device, dtype=example.dtype))
    except (RuntimeError, ValueError, AssertionError):
        return []
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
    return [(convolution, norm) for convolution, norm, features in pairs if uses.count[id(features)] == 1]


class _Uses(TorchFunctionMode):
    """Counts how often each tensor is an argument of a function."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = {}
        self.kept: list[Tensor] = []  # alive, so that no id is given twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # reading an attribute is no use
            for argument in (*args, *(kwargs or {}).values()):
                for value in argument if isinstance(argument, list | tuple) else [argument]:
                    if isinstance(value, Tensor):
                        self.count[id(value)] = self.count.get(id(value), 0) + 1
                        self.kept.append(value)
        return func(*args, **(kwargs or {}))
