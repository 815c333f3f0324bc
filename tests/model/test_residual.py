"""Residual blocks in one pass over memory: timm's results, and timm's ways wherever one pass is not right."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from tiny_detr import randomise_norms
from transformers_detr.model import onednn_detr, residual_detr
from transformers_detr.model.norms_detr import fold_batch_norms, freeze_batch_norms
from transformers_detr.model.onednn_detr import convolve_add_relu, convolve_relu, goes_in_one_pass
from transformers_detr.model.residual_detr import DetrResidualBlock, is_plain, replace_blocks

needs_onednn = pytest.mark.skipif(
    not goes_in_one_pass(torch.zeros(1, 64, 64, 64), torch.zeros(1)), reason="torch was built without oneDNN or MKL"
)


@pytest.fixture
def calls(monkeypatch):
    """Channels of what went in one pass, and whether something was added."""
    seen = []

    def counted(function, added):
        def call(features, *others):
            seen.append((features.shape[1], added))
            return function(features, *others)

        return call

    monkeypatch.setattr(residual_detr, "convolve_relu", counted(convolve_relu, False))
    monkeypatch.setattr(residual_detr, "convolve_add_relu", counted(convolve_add_relu, True))
    return seen


def trunks(name, **options):
    """timm's trunk with frozen norms, and ours made of a copy."""
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True, **options).eval()
    freeze_batch_norms(plain)
    randomise_norms(plain)
    ours = copy.deepcopy(plain)
    fold_batch_norms(ours, 3)
    folded = copy.deepcopy(ours)
    replace_blocks(ours)
    return folded, ours


def images():
    return torch.randn(2, 3, 97, 130, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


@needs_onednn
@pytest.mark.parametrize(
    ("name", "options", "blocks"),
    [("resnet18", {}, 8), ("resnet50", {"output_stride": 16}, 16), ("resnext50_32x4d", {}, 16), ("resnet50d", {}, 16)],
)
@torch.no_grad()
def test_a_trunk_gives_the_same_features(name, options, blocks, calls):
    timms, ours = trunks(name, **options)
    assert sum(isinstance(module, DetrResidualBlock) for module in ours.modules()) == blocks
    assert list(ours.state_dict()) == list(timms.state_dict())
    for theirs, mine in zip(timms(images()), ours(images()), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
    assert sum(added for _, added in calls) >= blocks // 2  # the last blocks are too small to be worth it
    assert any(not added for _, added in calls)


@needs_onednn
def test_gradients_are_timms(calls):
    timms, ours = trunks("resnet18")
    gradients = []
    for trunk in (timms, ours):
        trunk(images())[-1].square().sum().backward()
        gradients.append({name: value.grad for name, value in trunk.named_parameters()})
    assert not calls
    for name, expected in gradients[0].items():
        assert torch.allclose(gradients[1][name], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@needs_onednn
def test_frozen_blocks_go_in_one_pass_in_training(calls):
    _, ours = trunks("resnet18")
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(not name.startswith(("conv1", "layer1")))
    ours(images())[-1].sum().backward()
    assert calls == [(64, False), (64, False), (64, True)]  # the first block's input is the stem's
    assert ours.layer2[0].conv1.weight.grad is not None


@needs_onednn
@pytest.mark.parametrize("watched", ["", "1", "2", "1.conv1", "1.act3", "0.downsample.1"])
@torch.no_grad()
def test_what_hooks_see_stays_as_it_is(watched, calls):
    timms, ours = trunks("resnet50")
    seen = []
    for trunk in (timms, ours):
        layer = trunk.layer1.get_submodule(watched) if watched else trunk.layer1
        layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        trunk(images())
    for theirs, mine in zip(*seen, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
    assert (64, True) in calls  # of other blocks


@needs_onednn
@pytest.mark.parametrize("reason", ["double", "onednn is off", "no operator", "autocast", "grad"])
def test_one_pass_is_only_for_what_it_is_right_for(reason, monkeypatch):
    features, weight = torch.zeros(1, 64, 64, 64), torch.zeros(1)
    assert goes_in_one_pass(features, weight)
    if reason == "double":
        features = features.double()
    elif reason == "onednn is off":
        monkeypatch.setattr(onednn_detr, "_onednn_is_on", lambda: False)
    elif reason == "no operator":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    elif reason == "grad":
        weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=reason == "autocast"):
        assert not goes_in_one_pass(features, weight)
    assert goes_in_one_pass(torch.zeros(1, 64, 64, 64), torch.zeros(1)) or reason in ("onednn is off", "no operator")


@pytest.mark.parametrize("name", ["seresnet50", "resnet50_gn", "mobilenetv2_100", "ecaresnet26t"])
def test_blocks_that_do_more_are_left_alone(name):
    trunk = timm.create_model(name, features_only=True)
    freeze_batch_norms(trunk)
    fold_batch_norms(trunk, 3)
    assert not any(is_plain(module) for module in trunk.modules())


def test_a_block_whose_norm_comes_alive_runs_layer_by_layer(calls):
    _, ours = trunks("resnet18")
    block = ours.layer1[0]
    block.bn1 = nn.BatchNorm2d(64).train()
    features = torch.randn(2, 64, 32, 32)
    with torch.no_grad():
        found = block(features)
        expected = block.bn1(nn.functional.conv2d(features, block.conv1.weight, padding=1)).relu()
        weight, bias = block.conv2.folded()
        expected = (nn.functional.conv2d(expected, weight, bias, padding=1) + features).relu()
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (64, False) not in calls
