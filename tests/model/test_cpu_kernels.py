"""CPU fast paths: the results and gradients of torch and timm, and their own code where no fast path applies."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from tiny_detr import randomize_norms
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoBackbone, ResNetConfig

from transformers_detr.model import cpu_kernels_detr
from transformers_detr.model.cpu_kernels_detr import (
    can_be_fused,
    convolve_add_relu,
    convolve_pixels,
    convolve_relu,
    goes_to_onednn,
    may_be_fast,
    run_backbone,
    run_linear,
)
from transformers_detr.model.frozen_batch_norm_detr import freeze_batch_norms

TOKENS = (2, 120, 96)  # 23,040 numbers


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 40)


@pytest.fixture
def pixel_calls(monkeypatch):
    seen = []

    def counted(*args, **kwargs):
        seen.append(args[0].shape)
        return convolve_pixels(*args, **kwargs)

    monkeypatch.setattr(cpu_kernels_detr, "convolve_pixels", counted)
    return seen


needs_both = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="torch was built without MKL or oneDNN",
)


@needs_both
def test_a_linear_layer_and_its_gradients(layer, pixel_calls):
    results = []
    for run in (layer, partial(run_linear, layer)):
        tokens = torch.randn(TOKENS, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = run(tokens)
        gradients = torch.autograd.grad(output.square().sum(), (tokens, layer.weight, layer.bias))
        results.append((output, *gradients))
    assert pixel_calls == [(2, 96, 1, 120)]
    assert results[1][0].is_contiguous()
    for plain, ours in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


@pytest.mark.parametrize(
    "tokens",
    [torch.randn(3, 96), torch.randn(1, 100, 96), torch.randn(2, 2, 120, 96), torch.randn(TOKENS).double()],
    ids=["two axes", "few tokens", "four axes", "double"],
)
def test_other_inputs_go_the_usual_way(layer, pixel_calls, tokens):
    layer = layer.to(tokens.dtype)
    assert torch.equal(run_linear(layer, tokens), layer(tokens))
    assert not pixel_calls


class _Twice(nn.Linear):
    def forward(self, tokens):
        return 2 * super().forward(tokens)


def _subclass(layer):
    changed = _Twice(96, 40)
    changed.load_state_dict(layer.state_dict())
    return changed


def _hook(layer):
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def _pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return layer


def _own_forward(layer):
    layer.forward = lambda tokens: 2 * nn.functional.linear(tokens, layer.weight, layer.bias)
    return layer


def _pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


def _parametrized(layer):
    return torch.nn.utils.parametrizations.weight_norm(layer)


def _quantized(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves this tool to another package
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)[0]


CHANGES = [_subclass, _hook, _pre_hook, _own_forward, _pruned, _parametrized, _quantized]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_layer_runs_its_own_code(layer, pixel_calls, change):
    layer, tokens = change(layer), torch.randn(TOKENS)
    assert torch.equal(run_linear(layer, tokens), layer(tokens))
    assert not pixel_calls


class _Graph(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.layer, self.run = run.args[0], run  # as a submodule, so that its weights are no constants

    def forward(self, tokens):
        return self.run(tokens)


def _traced(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(_Graph(run), torch.randn(TOKENS), check_trace=False)


def _in_a_function_mode(run):
    with _Seeing():
        run(torch.randn(TOKENS))


class _Seeing(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def _counted(run):
    with FlopCounterMode(display=False):
        run(torch.randn(TOKENS))


def _compiled(run):
    torch.compile(run, backend="eager")(torch.randn(TOKENS))


def _as_functions(run):
    make_fx(run)(torch.randn(TOKENS))


def _exported(run):
    torch.export.export(_Graph(run), (torch.randn(TOKENS),))


def _switched_off(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cpu_kernels_detr.OFF_SWITCH, "1")
        run(torch.randn(TOKENS))


def _observed_globally(run):
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        run(torch.randn(TOKENS))
    finally:
        hook.remove()


def _forbidden(run):
    run(torch.randn(TOKENS), False)


RECORDERS = [
    _traced,
    _in_a_function_mode,
    _counted,
    _compiled,
    _as_functions,
    _exported,
    _switched_off,
    _observed_globally,
    _forbidden,
]


@needs_both
@pytest.mark.parametrize("record", RECORDERS)
def test_nothing_is_fast_while_something_records(layer, pixel_calls, record):
    run = partial(run_linear, layer)
    with torch.no_grad():
        record(run)
    assert not pixel_calls
    run(torch.randn(TOKENS))
    assert len(pixel_calls) == 1


def test_a_default_device_records_nothing():
    with torch.device("cpu"):
        assert may_be_fast(torch.zeros(1))


@needs_both
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4)])
def test_convolution_of_one_pixel(stride, groups):
    torch.manual_seed(0)
    features = torch.randn(2, 16, 41, 37).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(8, 16 // groups, 1, 1), torch.randn(8)
    assert goes_to_onednn(features)
    expected = nn.functional.conv2d(features.double(), weight.double(), bias.double(), stride, groups=groups)
    assert torch.allclose(convolve_pixels(features, weight, bias, stride, groups), expected.float(), atol=1e-5)


@needs_both
def test_where_onednn_is_off_nothing_is_dilated():
    torch._C._set_mkldnn_enabled(False)  # the public context manager warns of Intel's GPUs
    try:
        assert not goes_to_onednn(torch.randn(2, 16, 41, 37))
    finally:
        torch._C._set_mkldnn_enabled(True)


# Residual stages

with torch.inference_mode():
    HAS_ONEDNN = can_be_fused(torch.zeros(1, 64, 64, 64))
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="torch was built without oneDNN or MKL")


@pytest.fixture
def calls(monkeypatch):
    """Channels of what went in one pass, and whether something was added."""
    seen = []

    def counted(function, added):
        def call(features, *others):
            seen.append((features.shape[1], added))
            return function(features, *others)

        return call

    monkeypatch.setattr(cpu_kernels_detr, "convolve_relu", counted(convolve_relu, False))
    monkeypatch.setattr(cpu_kernels_detr, "convolve_add_relu", counted(convolve_add_relu, True))
    return seen


def backbone_of(name="resnet18", **options):
    """timm's backbone with frozen norms."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, features_only=True, **options).eval()
    freeze_batch_norms(backbone)
    randomize_norms(backbone)
    return backbone


def native(**options):
    """The ResNet of transformers with frozen norms."""
    torch.manual_seed(0)
    config = ResNetConfig(
        **{"out_features": ["stage1", "stage2", "stage3", "stage4"], "depths": [2, 2, 2, 2], **options}
    )
    backbone = AutoBackbone.from_config(config).eval()
    freeze_batch_norms(backbone)
    randomize_norms(backbone)
    return backbone


def features_of(backbone, pixels):
    """Of the backbone's own code."""
    features = backbone(pixels)
    return list(getattr(features, "feature_maps", features))


def images():
    return torch.randn(2, 3, 97, 130, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def same(mine, theirs):
    return torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@needs_onednn
@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [
        (partial(backbone_of, "resnet18"), 8),
        (partial(backbone_of, "resnet50", output_stride=16), 16),
        (partial(backbone_of, "resnext50_32x4d"), 16),
        (partial(backbone_of, "resnet50d"), 16),
        (native, 8),
        (partial(native, layer_type="basic", hidden_sizes=[64, 128, 256, 512]), 8),
        (partial(native, downsample_in_bottleneck=True), 8),
    ],
    ids=["resnet18", "dc5", "resnext", "resnet50d", "native", "native basic", "native strides"],
)
@torch.inference_mode()
def test_a_backbone_gives_the_same_features(backbone, blocks, calls):
    backbone = backbone()
    ours = run_backbone(backbone, images())
    expected = features_of(backbone, images())
    assert len(ours) == len(expected) >= 4
    assert all(same(mine, theirs) for mine, theirs in zip(ours, expected, strict=True))
    assert sum(added for _, added in calls) >= blocks // 2  # the last stages are too small to be worth it
    assert any(not added for _, added in calls)


@pytest.mark.parametrize(
    ("backbone", "learning", "dtype", "tolerance"),
    [
        (backbone_of, "", torch.float64, 1e-12),
        (native, "", torch.float64, 1e-12),
        # In float32 a pooling or ReLU may decide otherwise between nearly equal values: parts that none follows.
        (backbone_of, "downsample", torch.float32, 1e-5),
        (native, "shortcut", torch.float32, 1e-5),
    ],
)
def test_gradients_are_those_of_the_backbone(backbone, learning, dtype, tolerance, calls):
    backbone, pixels, gradients = backbone().to(dtype), images().to(dtype), []
    for name, value in backbone.named_parameters():
        value.requires_grad_(learning in name)
    for run in (partial(features_of, backbone), partial(run_backbone, backbone)):
        backbone.zero_grad()
        run(pixels)[-1].square().sum().backward()
        gradients.append({name: value.grad for name, value in backbone.named_parameters() if value.requires_grad})
    assert not calls
    assert gradients[0]
    for name, expected in gradients[0].items():
        assert (gradients[1][name] - expected).abs().max() <= tolerance * expected.abs().max(), name


@needs_onednn
@pytest.mark.parametrize(
    "watched", ["layer1.1", "layer1.2", "layer1.1.conv1", "layer1.1.act3", "layer1.0.downsample.1"]
)
@torch.inference_mode()
def test_what_hooks_see_stays_as_it_is(watched, calls):
    seen, backbone = [], backbone_of("resnet50")
    layer = backbone.get_submodule(watched)
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    for run in (partial(features_of, backbone), partial(run_backbone, backbone)):
        run(images())
    assert len(seen) == 2
    assert all(same(mine, theirs) for theirs, mine in zip(*seen, strict=True))
    assert (128, False) in calls  # of other stages


@needs_onednn
@pytest.mark.parametrize("watched", ["", "layer1"])
@torch.inference_mode()
def test_hooks_of_what_holds_blocks_are_called(watched, calls):
    seen, backbone = [], backbone_of()
    backbone.get_submodule(watched).register_forward_hook(lambda *_: seen.append(1))
    assert (run_backbone(backbone, images()) is None) == (not watched)
    assert len(seen) == bool(watched)
    assert ((64, True) in calls) is False


@needs_onednn
@torch.inference_mode()
def test_the_input_is_left_alone():
    backbone, pixels = backbone_of(), images()
    before = pixels.clone()
    first = run_backbone(backbone, pixels)
    kept = [level.clone() for level in first]
    run_backbone(backbone, pixels)
    assert torch.equal(pixels, before)
    assert all(torch.equal(level, copy) for level, copy in zip(first, kept, strict=True))


def _gelu(backbone):
    backbone.layer1[1].act1 = nn.GELU()


def _live_norm(backbone):
    backbone.layer1[0].bn1 = nn.BatchNorm2d(64).eval()


def _nothing(backbone):
    backbone.layer1[0] = nn.Identity()


def _no_norm(backbone):
    backbone.layer1[0].bn2 = nn.Identity()


def _reflecting(backbone):
    backbone.layer1[0].conv1.padding_mode = "reflect"
    backbone.layer1[0].conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]


def _moved(backbone):
    """As accelerate does with layers whose weights are elsewhere."""
    backbone.layer1[0].conv1.forward = lambda features: nn.functional.conv2d(
        features, torch.ones(64, 64, 3, 3), padding=1
    )


@needs_onednn
@pytest.mark.parametrize("change", [_gelu, _live_norm, _nothing, _no_norm, _reflecting, _moved])
@torch.inference_mode()
def test_layers_that_were_replaced_are_used(change, calls):
    backbone = backbone_of()
    before = run_backbone(backbone, images())
    change(backbone)
    ours = run_backbone(backbone, images())
    assert all(same(mine, theirs) for mine, theirs in zip(ours, backbone(images()), strict=True))
    assert not same(ours[-1], before[-1])
    assert (128, False) in calls


@needs_onednn
@torch.inference_mode()
def test_what_is_no_number_stays_so():
    pixels, backbone = images(), backbone_of()
    pixels[0, 0, 50, 50] = float("nan")
    for mine, theirs in zip(run_backbone(backbone, pixels), backbone(pixels), strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert mine.isnan().any()


@needs_onednn
@pytest.mark.parametrize("reason", ["double", "onednn is off", "no operator", "autocast"])
@torch.inference_mode()
def test_fused_operators_are_only_for_what_they_are_right_for(reason, monkeypatch):
    features = torch.zeros(1, 64, 64, 64)
    assert can_be_fused(features)
    if reason == "double":
        features = features.double()
    elif reason == "onednn is off":
        monkeypatch.setattr(cpu_kernels_detr, "_onednn_is_on", lambda: False)
    elif reason == "no operator":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        assert not can_be_fused(features)


def test_fused_operators_are_for_inference_only():
    with torch.no_grad():
        assert not can_be_fused(torch.zeros(1, 64, 64, 64))


@needs_onednn
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seresnet50", {}),
        ("resnet50_gn", {}),
        ("mobilenetv2_100", {}),
        ("ecaresnet26t", {}),
        ("resnet18", {"norm_layer": BatchNormAct2d}),
    ],
)
@torch.inference_mode()
def test_blocks_that_do_more_run_their_own_code(name, options, calls):
    backbone = backbone_of(name, **options)
    ours = run_backbone(backbone, images()) or backbone(images())  # None where no part has a fast path
    assert all(same(mine, theirs) for mine, theirs in zip(ours, backbone(images()), strict=True))
    assert not any(added for _, added in calls)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_other_backbones_give_none_or_the_same(name):
    backbone = backbone_of(name)
    with torch.no_grad():
        pixels = torch.randn(1, 3, 224, 224)
        ours = run_backbone(backbone, pixels)
        assert ours is None or all(same(a, b) for a, b in zip(ours, backbone(pixels), strict=True))
