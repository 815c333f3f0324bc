"""CPU fast paths: layers that oneDNN computes faster than torch does by default.

Linear layers and 1×1 convolutions: torch gives matrix products in float32 to MKL, which reaches half of the speed of
AMD processors, and convolutions to oneDNN. A linear layer over tokens is a 1×1 convolution; and a 1×1 convolution that
is called dilated, which does not change its result, always goes to oneDNN.

Fused convolution + addition + ReLU: torch has these operators for its compiler. They have no public name and no
gradients, and their ReLU turns NaN into zero; they are used in inference mode only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import _get_current_dispatch_mode

SMALLEST = 20481
"""Smallest number of input elements at which torch gives convolutions of a single image to oneDNN."""

_OPTIONAL = ("aa", "drop_block", "drop_path", "se")
"""Optional parts of timm's blocks besides convolutions, norms and activations."""


def goes_to_onednn(features: Tensor) -> bool:
    """Return whether a dilated 1×1 convolution over these features is faster.

    False in graphs: compilers choose for themselves, and exported graphs must hold linear layers.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    fits = features.device.type == "cpu" and features.dtype == torch.float32 and features.numel() >= SMALLEST
    return fits and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and _onednn_is_on()


def convolve_pixels(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: int | tuple[int, ...] = 1, groups: int = 1
) -> Tensor:
    """Convolve `(B, channels, h, w)` with 1×1 kernels `(outputs, channels / groups, 1, 1)`, with oneDNN."""
    return nn.functional.conv2d(features, weight, bias, stride, 0, dilation=2, groups=groups)


def goes_in_one_pass(features: Tensor, weight: Tensor) -> bool:
    """Return whether `convolve_relu` is available and correct for these: plain float32 on CPU, in inference mode."""
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
        bias: Used in place of the layer's own, `(outputs,)`.
        layer: Tells stride, padding, dilation and groups; padding is with zeros.
    """
    if has_torch_function((features,)):  # so that exact padding sees this function
        return handle_torch_function(convolve_relu, (features,), features, weight, bias, layer)
    return torch.ops.mkldnn._convolution_pointwise(features, weight, bias, *_places(layer), "relu", [], "")


def convolve_add_relu(features: Tensor, weight: Tensor, bias: Tensor, layer: nn.Conv2d, total: Tensor) -> Tensor:
    """ReLU of the sum of a convolution and `total`, written into `total`; otherwise as `convolve_relu`."""
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


class DetrNormedConv2d(nn.Conv2d):
    """A convolution that also applies the frozen norm behind it; its parameters are those of the one it replaces.

    Args:
        convolution: The convolution to replace.
        parent: The module that holds the norm. The norm is looked up there in each forward, so that another
            one may be put in its place.
        norm_name: Name of the norm in its parent.
    """

    def __init__(self, convolution: nn.Conv2d, parent: nn.Module, norm_name: str):
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            convolution.groups,
            convolution.bias is not None,
            convolution.padding_mode,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        object.__setattr__(self, "parent", parent)  # not a submodule: it is the other way round
        self.norm_name = norm_name

    def folded(self, norm: Any) -> tuple[Tensor, Tensor]:
        """Return weight and bias with a `DetrFrozenBatchNorm2d` multiplied in."""
        scale, shift = norm.scale_and_shift()
        return self.weight * scale[:, None, None, None], shift if self.bias is None else shift + self.bias * scale

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(B, channels, h, w)` and normalize."""
        norm = getattr(self.parent, self.norm_name)
        if not getattr(norm, "folded", False):
            return super().forward(input)
        weight, bias = self.folded(norm)
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and goes_to_onednn(input):
            return convolve_pixels(input, weight, bias, self.stride, self.groups)
        return self._conv_forward(input, weight, bias)


class DetrResidualStage(nn.Sequential):
    """Stage of a timm ResNet with fused convolution, addition and ReLU.

    In inference mode each convolution also computes its activation and the addition. The sum overwrites the shortcut,
    which exists inside the stage only. Each call checks for hooks, replaced or moved layers, other kinds of tensors and
    non-finite values, and then runs the blocks' own code.
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
        """Return whether the blocks do what `_run` does and nothing observes them."""
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
    """Replace each plain stage of a backbone with folded norms by `DetrResidualStage`; names stay."""
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Sequential and len(child) and all(is_plain(block) for block in child):
                setattr(parent, name, DetrResidualStage(*child).train(child.training))


def is_plain(block: nn.Module) -> bool:
    """Return whether a module is a residual block of timm's ResNet with convolutions, additions and ReLUs only."""
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
    convolution: Any = block._modules["conv" + number]
    norm: Any = block._modules["bn" + number]
    return bool(
        type(convolution) is DetrNormedConv2d
        and convolution.padding_mode == "zeros"
        and type(norm).__name__ == "DetrFrozenBatchNorm2d"  # its file imports this one
        and norm.folded
        and norm.act is None
    )


def _numbers(block: nn.Module) -> list[str]:
    """Suffixes of the names of a block's convolutions after "conv", in order."""
    return [name.removeprefix("conv") for name in block._modules if name.startswith("conv")]


def _run(block: Any, features: Tensor, is_own: bool) -> Tensor:
    """Run a plain block; its input may be overwritten if it is the stage's own."""
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
    """Weight and bias of a convolution with its norm folded in, and the convolution."""
    convolution = block._modules["conv" + number]
    return *convolution.folded(block._modules["bn" + number]), convolution
