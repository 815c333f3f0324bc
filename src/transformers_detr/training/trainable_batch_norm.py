"""Trainable batch norms, for backbones trained from random weights; evaluated and saved like frozen ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transformers_detr.model.frozen_batch_norm_detr import DetrFrozenBatchNorm2d


class TrainableBatchNorm2d(nn.BatchNorm2d):
    """Trainable batch norm, followed by the activation that was fused with the frozen one.

    Its parameters and buffers bear the names of the frozen form, which its evaluation mode equals.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        activation: Applied after the norm, or None.
    """

    def __init__(self, num_features: int, eps: float, activation: nn.Module | None):
        super().__init__(num_features, eps)
        self.act = activation

    def forward(self, input: Tensor) -> Tensor:
        """Normalize `(B, channels, h, w)`."""
        features: Tensor = super().forward(input)
        return features if self.act is None else self.act(features)


def make_batch_norms_trainable(module: nn.Module) -> None:
    """Replace every frozen batch norm inside `module` by a trainable one with its values."""
    for name, child in module.named_children():
        if isinstance(child, DetrFrozenBatchNorm2d):
            setattr(module, name, _trainable(child))
        else:
            make_batch_norms_trainable(child)


def _trainable(frozen: DetrFrozenBatchNorm2d) -> TrainableBatchNorm2d:
    trainable = TrainableBatchNorm2d(frozen.weight.numel(), frozen.eps, frozen.act)
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(trainable, name).copy_(getattr(frozen, name))
    return trainable.to(frozen.weight.device)
