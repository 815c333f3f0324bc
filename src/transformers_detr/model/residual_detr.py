"""Residual blocks of ResNets, which on the CPU take one pass over memory for what else takes three."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .norms_detr import DetrNormedConv2d
from .onednn_detr import convolve_add_relu, convolve_relu, goes_in_one_pass

_OPTIONAL = ("aa", "drop_block", "drop_path", "se")
"""What timm's blocks can have besides convolutions, norms and activations."""


class DetrResidualBlock(nn.Module):
    """Convolutions with ReLUs between them, and the block's input added before the last: timm's block, with its names.

    Where no gradient is wanted, each convolution does its activation and the addition too. The sum then takes the place
    of what is added to it, which must be nobody else's: it is made in this block, or by the block in front. Hooks are
    heeded: what they see is made layer by layer and stays as it is.

    Args:
        block: A `BasicBlock` or `Bottleneck` of timm that `is_plain`; its layers move here.
        before: The block that gives its result to this one alone, or None.
    """

    before: DetrResidualBlock | None

    def __init__(self, block: Any, before: DetrResidualBlock | None = None):
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.numbers = [name.removeprefix("conv") for name, _ in block.named_children() if name.startswith("conv")]
        object.__setattr__(self, "before", before)  # not a submodule
        for layer in self.modules():
            if isinstance(layer, DetrNormedConv2d) and layer.parent is block:
                object.__setattr__(layer, "parent", self)

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, channels, h, w)` to `(B, outputs, h', w')`."""
        shortcut, is_own = self._shortcut(features)
        for number in self.numbers[:-1]:
            features = self._layer(number, features)
        return self._layer(self.numbers[-1], features, shortcut, is_own)

    def _shortcut(self, features: Tensor) -> tuple[Tensor, bool]:
        """What is added at the end, and whether it may be overwritten."""
        downsample: Any = getattr(self, "downsample", None)
        if downsample is None:
            return features, self.before is not None and not _are_watched(*self.before.modules(), *self.modules())
        shortcut = downsample(features)
        return shortcut, shortcut is not features and not _are_watched(*downsample.modules())

    def _layer(
        self, number: str, features: Tensor, shortcut: Tensor | None = None, may_overwrite: bool = False
    ) -> Tensor:
        convolution, norm, activation = (getattr(self, part + number) for part in ("conv", "bn", "act"))
        folded = isinstance(convolution, DetrNormedConv2d) and convolution.is_folded  # in exported graphs it is plain
        if folded and (shortcut is None or may_overwrite) and not _are_watched(convolution, norm, activation):
            weight, bias = convolution.folded()
            if goes_in_one_pass(features, weight):
                if shortcut is None:
                    return convolve_relu(features, weight, bias, convolution)
                return convolve_add_relu(features, weight, bias, convolution, shortcut)
        features = norm(convolution(features))
        if shortcut is not None:
            features += shortcut
        result: Tensor = activation(features)
        return result


def is_plain(block: nn.Module) -> bool:
    """Whether a module is a residual block of timm's ResNet that does nothing `DetrResidualBlock` does not do."""
    if type(block).__module__ != "timm.models.resnet" or type(block).__name__ not in ("BasicBlock", "Bottleneck"):
        return False
    parts = dict(block.named_children())
    convolutions = [part for name, part in parts.items() if name.startswith("conv")]
    activations = [part for name, part in parts.items() if name.startswith("act")]
    return (
        all(isinstance(part, DetrNormedConv2d) and part.padding_mode == "zeros" for part in convolutions)
        and all(type(part) is nn.ReLU for part in activations)
        and all(isinstance(parts.get(name, nn.Identity()), nn.Identity) for name in _OPTIONAL)
    )


def replace_blocks(trunk: nn.Module) -> None:
    """Put ours in the place of each plain residual block inside a trunk whose norms are folded."""
    for parent in list(trunk.modules()):
        before = None
        for name, child in list(parent.named_children()):
            ours = DetrResidualBlock(child, before).train(child.training) if is_plain(child) else None
            if ours is not None:
                setattr(parent, name, ours)
            before = ours if isinstance(parent, nn.Sequential) else None


def _are_watched(*layers: nn.Module) -> bool:
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
