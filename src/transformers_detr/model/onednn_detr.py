"""What oneDNN does better on the CPU, and torch does not ask it for.

Linear layers and convolutions of one pixel: for matrix products in float32 torch calls MKL, which uses half of what
AMD's processors can do; convolutions go to oneDNN, which uses all of it. A linear layer over tokens is a convolution of
one pixel; and a convolution of one pixel that is called dilated, which changes nothing where there is nothing to
spread, always goes to oneDNN.

Convolution, addition and activation in one pass over memory: torch keeps the operators for its compiler. They have no
public name and no gradients, and their ReLU makes zero of what is no number; they are used in inference mode only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import _get_current_dispatch_mode

SMALLEST = 20481
"""Numbers in the input from which on torch gives convolutions of a single image to oneDNN."""


def goes_to_onednn(features: Tensor) -> bool:
    """Whether a dilated convolution of one pixel over these features is the quicker way.

    Never in graphs: compilers choose for themselves, and exported graphs shall hold linear layers.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    fits = features.device.type == "cpu" and features.dtype == torch.float32 and features.numel() >= SMALLEST
    return fits and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and _onednn_is_on()


def convolve_pixels(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: int | tuple[int, ...] = 1, groups: int = 1
) -> Tensor:
    """Convolve `(B, channels, h, w)` with kernels of one pixel `(outputs, channels / groups, 1, 1)`, by oneDNN."""
    return nn.functional.conv2d(features, weight, bias, stride, 0, dilation=2, groups=groups)


def goes_in_one_pass(features: Tensor, weight: Tensor) -> bool:
    """Whether `convolve_relu` is there and right for these: plain float32 on the CPU, in inference mode."""
    return (
        goes_to_onednn(features)  # first: a compiler, for which it is false, could not read the next line
        and torch.is_inference_mode_enabled()
        and (weight.device, weight.dtype) == (features.device, features.dtype)
        and not torch.is_autocast_enabled("cpu")
        and _get_current_dispatch_mode() is None  # whose owner wants to see every function
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def convolve_relu(features: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d) -> Tensor:
    """ReLU of a convolution.

    Args:
        features: `(B, channels, h, w)`.
        weight: Used in place of the layer's own.
        bias: Likewise, `(outputs,)`.
        layer: Tells stride, padding, dilation and groups; padding is with zeros.
    """
    if has_torch_function((features,)):  # so that exact padding sees this function
        return handle_torch_function(convolve_relu, (features,), features, weight, bias, layer)
    return torch.ops.mkldnn._convolution_pointwise(features, weight, bias, *_places(layer), "relu", [], "")


def convolve_add_relu(features: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d, total: Tensor) -> Tensor:
    """ReLU of the sum of a convolution and `total`, which is overwritten with it; otherwise as `convolve_relu`."""
    if has_torch_function((features,)):
        return handle_torch_function(convolve_add_relu, (features,), features, weight, bias, layer, total)
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        total, features, weight, bias, *_places(layer), "add", 1.0, "relu", [], ""
    )


def _places(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.padding, layer.stride, layer.dilation, layer.groups


def _onednn_is_on() -> bool:
    return bool(torch.backends.mkldnn.enabled)


class DetrLinear(nn.Linear):
    """A linear layer over tokens."""

    def forward(self, input: Tensor) -> Tensor:
        """Tokens `(B, tokens, inputs)` to `(B, tokens, outputs)`; other shapes as any linear layer."""
        plain = type(self.weight) is nn.Parameter  # not one of the quantized kinds
        if input.dim() != 3 or not plain or not goes_to_onednn(input):
            return super().forward(input)
        pixels = input[:, None].permute(0, 3, 1, 2)  # (B, inputs, 1, tokens), channels last
        return convolve_pixels(pixels, self.weight[:, :, None, None], self.bias).permute(0, 2, 3, 1)[:, 0]
