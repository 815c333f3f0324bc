"""Stages of ResNets, which on the CPU take one pass over memory for what else takes three."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .frozen_batch_norm_detr import DetrFrozenBatchNorm2d, DetrNormedConv2d
from .onednn_detr import convolve_add_relu, convolve_relu, goes_in_one_pass

_OPTIONAL = ("aa", "drop_block", "drop_path", "se")
"""What timm's blocks can have besides convolutions, norms and activations."""


class DetrResidualStage(nn.Sequential):
    """A stage of a ResNet of timm's, whose blocks it runs itself where that is quicker and nobody could tell.

    In inference mode each convolution does its activation and the addition too. The sum then takes the place of what is
    added to it, which is made and used inside the stage only. With anything unusual, which is looked for in each call
    (hooks, layers that were replaced or moved, other kinds of tensors, numbers that are none), the blocks run as they
    are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Features `(B, channels, h, w)` to `(B, outputs, h', w')`."""
        weight = next(self.parameters())
        if not (goes_in_one_pass(input, weight) and self._is_usual() and bool(input.sum().isfinite())):
            return super().forward(input)
        features, is_own = input, False
        for block in self:
            features, is_own = _run(block, features, is_own), True
        return features

    def _is_usual(self) -> bool:
        """Whether the blocks do what `_run` does, and nobody looks at what happens inside."""
        everywhere = torch.nn.modules.module
        return (
            not (everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks)
            and all(
                not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
                for layer in self.modules()
                if layer is not self
            )
            and all(is_plain(block) for block in self)
        )


def replace_stages(backbone: nn.Module) -> None:
    """Put ours in the place of each plain stage inside a backbone whose norms are folded; names stay."""
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Sequential and len(child) and all(is_plain(block) for block in child):
                setattr(parent, name, DetrResidualStage(*child).train(child.training))


def is_plain(block: nn.Module) -> bool:
    """Whether a module is a residual block of timm's ResNet that only convolves, adds and takes ReLUs."""
    if type(block).__module__ != "timm.models.resnet" or type(block).__name__ not in ("BasicBlock", "Bottleneck"):
        return False
    parts = block._modules
    downsample = parts.get("downsample")
    return (
        all(_is_folded(block, number) and type(parts["act" + number]) is nn.ReLU for number in _numbers(block))
        and all(isinstance(parts.get(name), nn.Identity | None) for name in _OPTIONAL)
        and (downsample is None or (type(downsample) is nn.Sequential and type(downsample[-2]) is DetrNormedConv2d))
    )


def _is_folded(block: nn.Module, number: str) -> bool:
    convolution, norm = block._modules["conv" + number], block._modules["bn" + number]
    return (
        type(convolution) is DetrNormedConv2d
        and convolution.padding_mode == "zeros"
        and type(norm) is DetrFrozenBatchNorm2d
        and norm.folded
        and norm.act is None
    )


def _numbers(block: nn.Module) -> list[str]:
    """What follows "conv" in the names of a block's convolutions, in their order."""
    return [name.removeprefix("conv") for name in block._modules if name.startswith("conv")]


def _run(block: Any, features: Tensor, is_own: bool) -> Tensor:
    """What a plain block makes of features, which may be overwritten if they are the stage's own."""
    if block.downsample is not None:
        shortcut = block.downsample(features)
    elif is_own:
        shortcut = features
    else:
        shortcut = features.clone()
    *first, last = _numbers(block)
    for number in first:
        features = convolve_relu(features, *_layer(block, number))
    return convolve_add_relu(features, *_layer(block, last), shortcut)


def _layer(block: Any, number: str) -> tuple[Tensor, Tensor, nn.Conv2d]:
    """A convolution's weight and bias with its norm in them, and itself."""
    convolution = block._modules["conv" + number]
    return *convolution.folded(block._modules["bn" + number]), convolution
