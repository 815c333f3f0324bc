"""Initial values of layers; what came from a checkpoint is left alone, since these functions heed its mark."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import initialization as init


def torch_default(layer: Any) -> None:
    """Initialize a linear layer or convolution as torch does."""
    init.kaiming_uniform_(layer.weight, a=5**0.5)
    torch_default_bias(layer)


def torch_default_bias(layer: Any) -> None:
    """Initialize a bias as torch does."""
    if layer.bias is not None:
        bound = layer.weight[0].numel() ** -0.5
        init.uniform_(layer.bias, -bound, bound)


def xavier(layer: nn.Linear, gain: float = 1.0) -> None:
    """Xavier uniform weights, no bias."""
    init.xavier_uniform_(layer.weight, gain=gain)
    init.zeros_(layer.bias)


def kaiming(layer: nn.Conv2d) -> None:
    """Kaiming normal weights by outputs, for layers in front of a ReLU, no bias."""
    init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        init.zeros_(layer.bias)
