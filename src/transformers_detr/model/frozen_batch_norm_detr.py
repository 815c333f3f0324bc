"""Frozen batch norms: a constant scale and shift per channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init


class DetrFrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants, followed by what was fused with it.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        activation: Activation that the replaced layer applied after the norm, or None.
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

    def folded_into(self, convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a convolution with this norm multiplied in; the activation is not part of them."""
        scale, shift = self.scale_and_shift()
        bias = shift if convolution.bias is None else shift + convolution.bias * scale
        return convolution.weight * scale[:, None, None, None], bias

    def forward(self, features: Tensor) -> Tensor:
        """Normalize `(B, channels, h, w)`."""
        scale, shift = self.scale_and_shift()
        features = torch.addcmul(shift[:, None, None], features, scale[:, None, None])
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
