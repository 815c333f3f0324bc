"""Frozen batch norms, and their folding into the convolutions in front of them.

A frozen norm is a constant scale and shift per channel, and so can be multiplied into the weights of the
convolution whose output it takes. That happens in each forward, on the weights and not on the far larger
feature maps: stored names and values stay what they are, and training is exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import initialization as init

from .cpu_kernels_detr import DetrNormedConv2d


class DetrFrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants, followed by what was fused with it.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        activation: Activation that the replaced layer applied after the norm, or None.

    Attributes:
        folded: Whether the convolution in front applies scale and shift; see `fold_batch_norms`.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, activation: nn.Module | None = None):
        super().__init__()
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.eps = eps
        self.act = activation
        self.folded = False

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d) -> DetrFrozenBatchNorm2d:
        """Freeze a batch norm; a fused activation (timm's `BatchNormAct2d`) is kept, with its dropout."""
        parts = [getattr(norm, name, None) for name in ("drop", "act")]
        fused = [part for part in parts if part is not None and not isinstance(part, nn.Identity)]
        activation = nn.Sequential(*fused) if len(fused) > 1 else (fused[0] if fused else None)
        frozen = cls(norm.num_features, norm.eps, activation)
        for name in ("weight", "bias", "running_mean", "running_var"):
            source = getattr(norm, name)
            if source is not None:
                setattr(frozen, name, source.detach().clone())
        return frozen

    def initialize(self) -> None:
        """No effect: scale 1, shift 0."""
        init.ones_(self.weight)
        init.zeros_(self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map that this layer is, as two vectors of one number per channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, features: Tensor) -> Tensor:
        """Normalize `(B, channels, h, w)`."""
        if not self.folded:
            scale, shift = self.scale_and_shift()
            features = features * scale[:, None, None] + shift[:, None, None]
        return features if self.act is None else self.act(features)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def freeze_batch_norms(module: nn.Module) -> None:
    """Replace every batch norm inside `module` by its frozen form; other norms are left alone."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, DetrFrozenBatchNorm2d.from_batch_norm(child))
        else:
            freeze_batch_norms(child)


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


@torch.no_grad()
def fold_batch_norms(backbone: nn.Module, num_channels: int) -> None:
    """Fold each frozen norm inside `backbone` into the convolution whose output it alone takes.

    Which ones these are is found by running the backbone once on a small image (or on none, on the meta device).
    A backbone that does not take small images is left unfolded: slower, not wrong.

    Args:
        backbone: The backbone, its norms frozen.
        num_channels: Channels of its input.
    """
    parents = {child: (parent, name) for parent in backbone.modules() for name, child in parent.named_children()}
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, DetrFrozenBatchNorm2d, Tensor]] = []

    def remember(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if type(module) is nn.Conv2d:
            outputs[id(output)] = (module, output)

    def pair(module: Any, inputs: Any) -> tuple[Tensor]:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module, inputs[0]))
        return (inputs[0].detach(),)  # one use, and another tensor from here on

    norms = [module for module in parents if isinstance(module, DetrFrozenBatchNorm2d)]
    hooks = [module.register_forward_hook(remember) for module in parents if isinstance(module, nn.Conv2d)]
    for norm in norms:
        hooks.append(norm.register_forward_pre_hook(pair))
        norm.folded = True  # computes nothing, for the time of this trial
    training, uses = backbone.training, _Uses()
    try:
        example = next(backbone.parameters())
        with uses:
            backbone.eval()(torch.zeros(1, num_channels, 64, 64, device=example.device, dtype=example.dtype))
    except (RuntimeError, ValueError, AssertionError):
        return
    finally:
        backbone.train(training)
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.folded = False
    for convolution, norm, features in pairs:
        if uses.count[id(features)] == 1:
            parent, name = parents[convolution]
            setattr(parent, name, DetrNormedConv2d(convolution, *parents[norm]))
            norm.folded = True
