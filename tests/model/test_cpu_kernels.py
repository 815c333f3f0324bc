"""CPU fast paths: the results and gradients of torch and timm, and their own code where no fast path applies."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from tiny_detr import randomize_norms
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from transformers_detr.model import cpu_kernels_detr
from transformers_detr.model.cpu_kernels_detr import (
    DetrLinear,
    DetrResidualStage,
    convolve_add_relu,
    convolve_pixels,
    convolve_relu,
    goes_in_one_pass,
    goes_to_onednn,
    is_plain,
    replace_stages,
)
from transformers_detr.model.frozen_batch_norm_detr import fold_batch_norms, freeze_batch_norms

TOKENS = (2, 120, 96)  # 23,040 numbers


@pytest.fixture
def layers():
    torch.manual_seed(0)
    ours, plain = DetrLinear(96, 40), nn.Linear(96, 40)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


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
def test_linear_layer_is_a_linear_layer(layers, pixel_calls):
    results = []
    for layer in layers:
        tokens = torch.randn(TOKENS, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = layer(tokens)
        gradients = torch.autograd.grad(output.square().sum(), (tokens, layer.weight, layer.bias))
        results.append((output, *gradients))
    assert pixel_calls == [(2, 96, 1, 120)]
    assert results[0][0].is_contiguous()
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


@pytest.mark.parametrize(
    "tokens",
    [torch.randn(3, 96), torch.randn(1, 100, 96), torch.randn(2, 2, 120, 96), torch.randn(TOKENS).double()],
    ids=["two axes", "few tokens", "four axes", "double"],
)
def test_other_inputs_go_the_usual_way(layers, pixel_calls, tokens):
    ours, plain = (layer.to(tokens.dtype) for layer in layers)
    assert torch.equal(ours(tokens), plain(tokens))
    assert not pixel_calls


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


def test_graphs_hold_linear_layers(layers):
    exported = torch.export.export(layers[0], (torch.randn(TOKENS),))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert called == {"aten.linear.default"}


# Residual stages

with torch.inference_mode():
    HAS_ONEDNN = goes_in_one_pass(torch.zeros(1, 64, 64, 64), torch.zeros(1))
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


def backbones(name="resnet18", **options):
    """timm's backbone with frozen and folded norms, and ours made of a copy."""
    torch.manual_seed(0)
    timms = timm.create_model(name, features_only=True, **options).eval()
    freeze_batch_norms(timms)
    randomize_norms(timms)
    fold_batch_norms(timms, 3)
    ours = copy.deepcopy(timms)
    replace_stages(ours)
    return timms, ours


def images():
    return torch.randn(2, 3, 97, 130, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def same(mine, theirs):
    return torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@needs_onednn
@pytest.mark.parametrize(
    ("name", "options", "blocks"),
    [("resnet18", {}, 8), ("resnet50", {"output_stride": 16}, 16), ("resnext50_32x4d", {}, 16), ("resnet50d", {}, 16)],
)
@torch.inference_mode()
def test_a_backbone_gives_the_same_features(name, options, blocks, calls):
    timms, ours = backbones(name, **options)
    assert sum(isinstance(module, DetrResidualStage) for module in ours.modules()) == 4
    assert list(ours.state_dict()) == list(timms.state_dict())
    assert all(same(mine, theirs) for mine, theirs in zip(ours(images()), timms(images()), strict=True))
    assert sum(added for _, added in calls) >= blocks // 2  # the last stages are too small to be worth it
    assert any(not added for _, added in calls)


@pytest.mark.parametrize("learning", ["", "downsample"])
def test_gradients_are_timms(learning, calls):
    gradients = []
    for backbone in backbones():
        for name, value in backbone.named_parameters():
            value.requires_grad_(learning in name)
        backbone(images())[-1].square().sum().backward()
        gradients.append({name: value.grad for name, value in backbone.named_parameters() if value.requires_grad})
    assert not calls
    assert all(same(gradients[1][name], expected) for name, expected in gradients[0].items())


def test_checkpointed_blocks_give_timms_gradients():
    gradients = []
    for backbone in backbones():
        features = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
        result = features
        for block in backbone.layer1:
            result = checkpoint(block, result, use_reentrant=True)
        result.square().sum().backward()
        gradients.append(features.grad)
    assert same(*gradients)


@needs_onednn
@pytest.mark.parametrize("watched", ["1", "2", "1.conv1", "1.act3", "0.downsample.1"])
@torch.inference_mode()
def test_what_hooks_see_stays_as_it_is(watched, calls):
    seen = []
    for backbone in backbones("resnet50"):
        layer = backbone.layer1.get_submodule(watched)
        layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        backbone(images())
    assert all(same(mine, theirs) for theirs, mine in zip(*seen, strict=True))
    assert (128, False) in calls  # of other stages


@needs_onednn
@torch.inference_mode()
def test_global_hooks_are_heeded(calls):
    seen = []
    _, ours = backbones()
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    try:
        ours(images())
    finally:
        hook.remove()
    assert nn.ReLU in seen
    assert not calls


@needs_onednn
@torch.inference_mode()
def test_blocks_called_one_by_one_leave_their_inputs_alone():
    _, ours = backbones()
    features = torch.randn(2, 64, 32, 32)
    before = features.clone()
    for layers in (ours.layer1, ours.layer1[0]):
        layers(features)
        assert torch.equal(features, before)


def _gelu(backbone):
    backbone.layer1[1].act1 = nn.GELU()


def _live_norm(backbone):
    backbone.layer1[0].bn1 = nn.BatchNorm2d(64).eval()


def _nothing(backbone):
    backbone.layer1[0] = nn.Identity()


def _moved(backbone):
    """As accelerate does with layers whose weights are elsewhere."""
    backbone.layer1[0].conv1.forward = lambda features: nn.functional.conv2d(
        features, torch.ones(64, 64, 3, 3), padding=1
    )


@needs_onednn
@pytest.mark.parametrize("change", [_gelu, _live_norm, _nothing, _moved])
@torch.inference_mode()
def test_layers_that_were_replaced_are_used(change, calls):
    timms, ours = backbones()
    for backbone in (timms, ours):
        change(backbone)
    assert all(same(mine, theirs) for mine, theirs in zip(ours(images()), timms(images()), strict=True))
    assert (128, False) in calls
    assert (64, True) not in calls


@needs_onednn
@torch.inference_mode()
def test_what_is_no_number_stays_so():
    pixels = images()
    pixels[0, 0, 50, 50] = float("nan")
    timms, ours = backbones()
    for mine, theirs in zip(ours(pixels), timms(pixels), strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
        assert mine.isnan().any()


@needs_onednn
@torch.inference_mode()
def test_every_operation_is_counted():
    counts = []
    for backbone in backbones():
        with FlopCounterMode(display=False) as counter:
            backbone(images())
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@needs_onednn
@pytest.mark.parametrize("reason", ["double", "onednn is off", "no operator", "autocast", "elsewhere"])
@torch.inference_mode()
def test_one_pass_is_only_for_what_it_is_right_for(reason, monkeypatch):
    features, weight = torch.zeros(1, 64, 64, 64), torch.zeros(1)
    assert goes_in_one_pass(features, weight)
    if reason == "double":
        features = features.double()
    elif reason == "onednn is off":
        monkeypatch.setattr(cpu_kernels_detr, "_onednn_is_on", lambda: False)
    elif reason == "no operator":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    elif reason == "elsewhere":
        weight = weight.to("meta")
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        assert not goes_in_one_pass(features, weight)


def test_one_pass_is_for_inference_only():
    with torch.no_grad():
        assert not goes_in_one_pass(torch.zeros(1, 64, 64, 64), torch.zeros(1))


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
def test_blocks_that_do_more_are_left_alone(name, options):
    backbone = timm.create_model(name, features_only=True, **options)
    freeze_batch_norms(backbone)
    fold_batch_norms(backbone, 3)
    assert not any(is_plain(module) for module in backbone.modules())
