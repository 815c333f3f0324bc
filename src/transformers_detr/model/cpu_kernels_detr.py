"""CPU fast paths: the same layers computed with fewer passes over memory.

Each function takes plain modules and decides at each call: no layer is replaced, observed by a hook or stored
elsewhere, nothing records, and nobody has turned fast paths off (`DETR_DISABLE_FAST_PATHS=1`, or
`config.fast_paths = False`). Otherwise the modules run their own code.

- Frozen norms are multiplied into the convolution in front of them, on the weights and not on the far larger features;
  also in training. Obsolete when torch folds constant batch norms by itself.
- Linear layers and 1×1 convolutions go to oneDNN: torch gives matrix products in float32 to MKL, which reaches half of
  the speed of AMD processors. A linear layer over tokens is a 1×1 convolution; and a 1×1 convolution that is called
  dilated, which does not change its result, always goes to oneDNN. Obsolete when torch does so for `linear`.
- Fused convolution + addition + ReLU: torch has these operators for its compiler. They have no public name and no
  gradients, and their ReLU turns NaN into zero; they are used in inference mode only. Obsolete when eager mode fuses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from .frozen_batch_norm_detr import DetrFrozenBatchNorm2d
from .recording_detr import is_recorded

OFF_SWITCH = "DETR_DISABLE_FAST_PATHS"

SMALLEST = 20481
"""Smallest number of input elements at which torch gives convolutions of a single image to oneDNN."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple("_global" + name for name in _HOOKS)


# Conditions


def may_be_fast(features: Tensor) -> bool:
    """Return whether fast paths are on, and nothing observes the layers as a whole."""
    return (
        not is_recorded()
        and type(features) in (Tensor, nn.Parameter)
        and os.environ.get(OFF_SWITCH, "0") in ("", "0")
        and not has_global_hooks()
    )


def has_global_hooks() -> bool:
    """Return whether a hook observes every module of this process."""
    return any(getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS)


def is_plain(module: Any, kind: type[nn.Module]) -> bool:
    """Return whether a module is exactly of this kind, runs the code of its class, and no hook observes it."""
    state = vars(module) if isinstance(module, nn.Module) else {}
    return (
        type(module) is kind
        and "forward" not in state
        and state.get("_compiled_call_impl") is None
        and not any(state[name] for name in _HOOKS)
    )


def goes_to_onednn(features: Tensor) -> bool:
    """Return whether a dilated 1×1 convolution over these features is faster."""
    fits = features.device.type == "cpu" and features.dtype == torch.float32 and features.numel() >= SMALLEST
    return fits and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and _onednn_is_on()


def can_be_fused(features: Tensor) -> bool:
    """Return whether `convolve_relu` is available and correct: float32 on a CPU, in inference mode."""
    return (
        goes_to_onednn(features)
        and torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _onednn_is_on() -> bool:
    return bool(torch.backends.mkldnn.enabled)


def is_ordinary(value: Tensor | None, like: Tensor) -> bool:
    """Return whether a weight is an ordinary tensor, not of a quantized kind, on the device of the features."""
    return value is None or (type(value) in (Tensor, nn.Parameter) and value.device == like.device)


# Linear layers


def run_linear(layer: Any, tokens: Tensor, allowed: bool = True) -> Tensor:
    """Run a linear layer.

    Args:
        layer: The layer, of any kind.
        tokens: `(B, tokens, inputs)`; other shapes go the layer's own way.
        allowed: Whether fast paths are allowed.

    Returns:
        `(B, tokens, outputs)`.
    """
    if not (
        allowed
        and tokens.dim() == 3
        and may_be_fast(tokens)
        and is_plain(layer, nn.Linear)
        and goes_to_onednn(tokens)
        and is_ordinary(layer.weight, tokens)
        and not torch.is_autocast_enabled("cpu")
    ):
        result: Tensor = layer(tokens)
        return result
    pixels = tokens[:, None].permute(0, 3, 1, 2)  # (B, inputs, 1, tokens), channels last
    return convolve_pixels(pixels, layer.weight[:, :, None, None], layer.bias).permute(0, 2, 3, 1)[:, 0]


def convolve_pixels(
    features: Tensor, weight: Tensor, bias: Tensor | None, stride: int | tuple[int, ...] = 1, groups: int = 1
) -> Tensor:
    """Convolve `(B, channels, h, w)` with 1×1 kernels `(outputs, channels / groups, 1, 1)`, with oneDNN."""
    return nn.functional.conv2d(features, weight, bias, stride, 0, dilation=2, groups=groups)


# Convolutions with frozen norms


class _Normed(NamedTuple):
    """A convolution, the norm behind it, and the activation behind that."""

    convolution: Any
    norm: Any
    activation: nn.Module | None

    def folded(self, like: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias with the norm multiplied in; None where the layers have to run themselves."""
        convolution, norm = self.convolution, self.norm
        if not (
            is_plain(convolution, nn.Conv2d)
            and convolution.padding_mode == "zeros"
            and is_ordinary(convolution.weight, like)
        ):
            return None
        if is_plain(norm, nn.Identity):  # of a fused model
            return convolution.weight, convolution.bias
        usual = is_plain(norm, DetrFrozenBatchNorm2d) and norm.act is None and is_ordinary(norm.weight, like)
        if not usual or norm.weight.dtype != convolution.weight.dtype:
            return None
        return norm.folded_into(convolution)

    def run(self, features: Tensor) -> Tensor:
        """Convolve, normalize, activate."""
        weights, layer = self.folded(features), self.convolution
        if weights is None:
            features = self.norm(layer(features))
        elif layer.kernel_size == (1, 1) and layer.padding == (0, 0) and goes_to_onednn(features):
            features = convolve_pixels(features, *weights, layer.stride, layer.groups)
        else:
            features = layer._conv_forward(features, *weights)
        return features if self.activation is None else self.activation(features)


class _Residual(NamedTuple):
    """A residual block: layers, what is added to their result, and the activation behind the addition."""

    layers: list[_Normed]
    shortcut: list[nn.Module | _Normed]
    activation: nn.Module

    def run(self, features: Tensor) -> Tensor:
        """Run the block layer by layer."""
        shortcut = self._shortcut(features)
        for layer in self.layers:
            features = layer.run(features)
        features += shortcut
        result: Tensor = self.activation(features)
        return result

    def run_fused(self, features: Tensor, is_own: bool) -> Tensor | None:
        """Run with fused operators; None where that is not possible. The input is overwritten if it `is_own`."""
        weights = [layer.folded(features) for layer in self.layers]
        activations = [self.activation, *(layer.activation for layer in self.layers[:-1])]
        if not all(is_plain(activation, nn.ReLU) for activation in activations):
            return None
        if any(found is None or found[0].dtype != features.dtype for found in weights):
            return None
        shortcut = self._shortcut(features)
        if shortcut is features and not is_own:
            shortcut = features.clone()
        for layer, found in zip(self.layers[:-1], weights, strict=False):
            weight, bias = found  # type: ignore[misc]  # none is None, see above
            features = convolve_relu(features, weight, bias, layer.convolution)
        weight, bias = weights[-1]  # type: ignore[misc]
        return convolve_add_relu(features, weight, bias, self.layers[-1].convolution, shortcut)

    def _shortcut(self, features: Tensor) -> Tensor:
        for part in self.shortcut:
            features = part.run(features) if isinstance(part, _Normed) else part(features)
        return features


def convolve_relu(features: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
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


def convolve_add_relu(features: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d, total: Tensor) -> Tensor:
    """ReLU of the sum of a convolution and `total`, written into `total`; otherwise as `convolve_relu`."""
    if has_torch_function((features,)):
        return handle_torch_function(convolve_add_relu, (features,), features, weight, bias, layer, total)
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        total, features, weight, bias, *_places(layer), "add", 1.0, "relu", [], ""
    )


def _places(layer: nn.Conv2d) -> tuple[Any, ...]:
    return layer.padding, layer.stride, layer.dilation, layer.groups


# ResNets of timm and transformers


def run_backbone(backbone: nn.Module, pixel_values: Tensor, allowed: bool = True) -> list[Tensor] | None:
    """Run a ResNet of timm or transformers.

    Args:
        backbone: The backbone, of any kind.
        pixel_values: `(B, channels, H, W)`.
        allowed: Whether fast paths are allowed.

    Returns:
        The feature maps, finest first; None if the backbone has to run its own code.
    """
    if not (allowed and may_be_fast(pixel_values)):
        return None
    steps = _steps(backbone)
    if steps is None:
        return None
    maps, features = [], pixel_values
    for step, is_output in steps:
        features = step(features)
        if is_output:
            maps.append(features)
    return maps


_Step = tuple[Callable[[Tensor], Tensor], bool]
"""A function of the features, and whether its result is a feature map."""


def _steps(backbone: Any) -> list[_Step] | None:
    if _is_named(backbone, "timm.models._features", "FeatureListNet"):
        usual = not (backbone.grad_checkpointing or backbone.concat) and backbone.output_fmt == "NCHW"
        return list(_timm_steps(backbone)) if usual else None
    if _is_named(backbone, "transformers.models.resnet.modeling_resnet", "ResNetBackbone"):
        return _native_steps(backbone)
    return None


def _timm_steps(backbone: Any) -> Iterator[_Step]:
    items = list(backbone._modules.items())
    while items:
        name, module = items.pop(0)
        step: Callable[[Tensor], Tensor] = module
        if is_plain(module, nn.Sequential):
            blocks = [(block, _timm_block(block)) for block in module]
            step = _stage(blocks)
        elif items and name not in backbone.return_layers and type(items[0][1]) in (DetrFrozenBatchNorm2d, nn.Identity):
            normed = _Normed(module, items[0][1], None)
            name, _ = items.pop(0)
            step = normed.run
        yield step, name in backbone.return_layers


def _native_steps(backbone: Any) -> list[_Step] | None:
    embedder, encoder = backbone.embedder, backbone.encoder
    parts = (embedder, encoder, *encoder.stages, *(stage.layers for stage in encoder.stages))
    usual = all(is_plain(module, type(module)) for module in parts)
    if not usual or backbone.stage_names != ["stem", *(f"stage{n + 1}" for n in range(len(encoder.stages)))]:
        return None
    stem = _native_layer(embedder.embedder)
    steps: list[Callable[[Tensor], Tensor]] = [
        lambda features: embedder.pooler(stem.run(features) if stem else embedder.embedder(features))
    ]
    steps += [_stage([(block, _native_block(block)) for block in stage.layers]) for stage in encoder.stages]
    return [(step, name in backbone.out_features) for step, name in zip(steps, backbone.stage_names, strict=True)]


def _stage(blocks: list[tuple[nn.Module, _Residual | None]]) -> Callable[[Tensor], Tensor]:
    """Return a function that runs the blocks; a block that is None runs its own code.

    Fused operators overwrite the shortcut, which exists inside the stage only, and lose NaN, so they need finite input.
    """

    def run(features: Tensor) -> Tensor:
        usual = any(block is not None for _, block in blocks)
        fused, is_own = usual and can_be_fused(features) and bool(features.sum().isfinite()), False
        for module, block in blocks:
            result = None
            if block is not None:
                result = block.run_fused(features, is_own) if fused else None
                result = block.run(features) if result is None else result
            features, is_own = module(features) if result is None else result, True
        return features

    return run


def _timm_block(block: Any) -> _Residual | None:
    """Return the parts of a residual block of timm's ResNet; None if it holds more than convolutions and ReLUs."""
    if not (
        _is_named(block, "timm.models.resnet", "BasicBlock") or _is_named(block, "timm.models.resnet", "Bottleneck")
    ):
        return None
    parts = block._modules
    optional = [parts.get(name) for name in ("aa", "drop_block", "drop_path", "se")]
    downsample = parts.get("downsample")
    if not all(part is None or is_plain(part, nn.Identity) for part in optional):
        return None
    numbers = [name.removeprefix("conv") for name in parts if name.startswith("conv")]
    layers = [_Normed(parts["conv" + n], parts["bn" + n], parts["act" + n]) for n in numbers]
    if downsample is None:
        shortcut: list[Any] = []
    elif is_plain(downsample, nn.Sequential):
        shortcut = [*downsample[:-2], _Normed(downsample[-2], downsample[-1], None)]
    else:
        shortcut = [downsample]
    *first, last = layers
    return _Residual([*first, last._replace(activation=None)], shortcut, parts["act" + numbers[-1]])


def _native_block(block: Any) -> _Residual | None:
    """Return the parts of a residual block of transformers' ResNet."""
    home = "transformers.models.resnet.modeling_resnet"
    if not any(_is_named(block, home, name) for name in ("ResNetBasicLayer", "ResNetBottleNeckLayer")):
        return None
    layers = [_native_layer(layer) for layer in block.layer] if is_plain(block.layer, nn.Sequential) else [None]
    if None in layers:
        return None
    shortcut: list[Any] = [block.shortcut]
    if is_plain(block.shortcut, nn.Identity):
        shortcut = []
    elif _is_named(block.shortcut, home, "ResNetShortCut"):
        shortcut = [_Normed(block.shortcut.convolution, block.shortcut.normalization, None)]
    return _Residual(layers, shortcut, block.activation)  # type: ignore[arg-type]


def _native_layer(layer: Any) -> _Normed | None:
    if not _is_named(layer, "transformers.models.resnet.modeling_resnet", "ResNetConvLayer"):
        return None
    return _Normed(layer.convolution, layer.normalization, layer.activation)


def _is_named(module: nn.Module, home: str, name: str) -> bool:
    """Return whether a module is plain, and its class has this name in this library, which is not imported here."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == (home, name) and is_plain(module, kind)
