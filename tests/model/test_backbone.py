"""The backbone: frozen norms, what trains, and exact padding."""

from __future__ import annotations

import pytest
import timm
import torch
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config
from torch import nn

from transformers_detr import DetrConfig
from transformers_detr.model.backbone_detr import DetrConvEncoder
from transformers_detr.model.frozen_batch_norm_detr import DetrFrozenBatchNorm2d, freeze_batch_norms


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_frozen_batch_norm_is_batch_norm_in_eval_mode(eps):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=eps).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.copy_(torch.rand(6) + 0.5)
    frozen = DetrFrozenBatchNorm2d.from_batch_norm(norm)
    features = torch.randn(2, 6, 4, 5)
    assert torch.allclose(frozen(features), norm(features), atol=1e-6)
    assert torch.equal(frozen.train()(features), frozen.eval()(features))
    assert not list(frozen.parameters())


def test_fused_activations_survive_freezing():
    """Backbones such as MobileNet fuse norm and activation in one layer."""
    torch.manual_seed(0)
    backbone = timm.create_model("mobilenetv2_100", features_only=True).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = backbone(images)
    freeze_batch_norms(backbone)
    for before, after in zip(expected, backbone(images), strict=True):
        assert torch.allclose(before, after, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_layer_norms_are_left_alone():
    backbone = timm.create_model("convnext_atto", features_only=True)
    before = [type(module) for module in backbone.modules()]
    freeze_batch_norms(backbone)
    assert [type(module) for module in backbone.modules()] == before


@pytest.mark.parametrize(
    ("backbone", "last_frozen", "first_trained"),
    [
        ({"backbone": "resnet18"}, "layer1.1.conv2.weight", "layer2.0.conv1.weight"),
        ({"backbone": "mobilenetv2_100"}, "blocks.1.1.conv_pwl.weight", "blocks.2.0.conv_pw.weight"),
        ({"backbone": "convnext_atto"}, "stages_0.blocks.1.mlp.fc2.bias", "stages_1.downsample.0.weight"),
        ({"backbone": "vgg11_bn"}, "features_11.bias", "features_15.weight"),  # stages end in poolings
        ({"backbone": "xception41"}, "blocks_1.stack.conv2.conv_pw.weight", "blocks_1.stack.conv3.conv_dw.weight"),
        ({"backbone": "hrnet_w18_small"}, "layer1.0.downsample.0.weight", "transition1.0.0.weight"),
        (
            {"backbone_config": NATIVE_BACKBONE},
            "encoder.stages.0.layers.0.layer.1.convolution.weight",
            "encoder.stages.1.layers.0.shortcut.convolution.weight",
        ),
    ],
)
def test_stem_and_first_stage_are_not_trained(backbone, last_frozen, first_trained):
    encoder = DetrConvEncoder(DetrConfig(**backbone))
    flags = [(name, parameter.requires_grad) for name, parameter in encoder.model.named_parameters()]
    index = [name for name, _ in flags].index(last_frozen)
    assert not any(trains for _, trains in flags[: index + 1])
    assert all(trains for _, trains in flags[index + 1 :])
    assert flags[index + 1][0] == first_trained


def test_backbones_that_put_channels_last_give_them_first():
    small = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1), "img_size": 64, "window_size": 2}
    config = DetrConfig(backbone="swin_tiny_patch4_window7_224", backbone_kwargs=small)
    encoder = DetrConvEncoder(config).eval()
    images = torch.randn(1, 3, 64, 64)
    pyramid = encoder(images, None)
    assert encoder.intermediate_channel_sizes == [8, 16, 32, 64]
    assert [tuple(level.features.shape) for level in pyramid] == [(1, 8 * 2**i, 16 >> i, 16 >> i) for i in range(4)]
    assert torch.equal(pyramid[0].features[0, :, 3, 5], encoder.model(images)[0][0, 3, 5])


def test_dilation_halves_the_stride_of_the_last_stage():
    images = torch.randn(1, 3, 65, 97)
    shapes = {}
    for dilation in (False, True):
        pyramid = DetrConvEncoder(tiny_config(dilation=dilation))(images, None)
        shapes[dilation] = [tuple(level.features.shape[-2:]) for level in pyramid]
        assert all(level.mask is None for level in pyramid)
    assert shapes[False] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    assert shapes[True] == [(17, 25), (9, 13), (5, 7), (5, 7)]


def test_unknown_backbone_is_named():
    with pytest.raises(ValueError, match="'resnet5O' is not the name of a timm model"):
        DetrConvEncoder(DetrConfig(backbone="resnet5O"))


@pytest.mark.parametrize(
    ("backbone", "supported"),
    [
        ({"backbone": "resnet18"}, True),
        ({"backbone": "resnet18", "dilation": True}, True),
        ({"backbone": "mobilenetv2_100"}, True),
        ({"backbone_config": NATIVE_BACKBONE}, True),
        ({"backbone": "mobilenetv2_100", "backbone_kwargs": {"pad_type": "same"}}, False),  # asymmetric padding
        ({"backbone": "regnety_002"}, False),  # squeeze-and-excitation sees the whole canvas
        ({"backbone": "convnext_atto"}, False),  # patches
    ],
)
def test_exact_padding_is_offered_where_it_is_exact(backbone, supported):
    assert DetrConvEncoder(DetrConfig(**backbone)).supports_exact_padding is supported


SIZES = [(50, 97), (96, 61), (33, 34)]


@pytest.mark.parametrize("backbone", [{}, {"dilation": True}, {"backbone_config": NATIVE_BACKBONE}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.inference_mode()
def test_exact_padding_gives_the_features_of_the_image_alone(backbone, dtype):
    torch.manual_seed(0)
    encoder = DetrConvEncoder(tiny_config(**backbone)).eval()
    randomize_norms(encoder)
    encoder.to(dtype)
    pixel_values, pixel_mask = padded_batch(SIZES)
    pixel_values = pixel_values.to(dtype)
    together = encoder(pixel_values, pixel_mask.bool(), exact_padding=True)
    original = encoder(pixel_values, pixel_mask.bool())
    leaks = 0.0
    for index, (height, width) in enumerate(SIZES):
        alone = encoder(pixel_values[index : index + 1, :, :height, :width], None)
        for level, (features, _) in enumerate(alone):
            h, w = features.shape[-2:]
            inside = together[level].features[index, :, :h, :w]
            assert torch.allclose(inside, features[0], rtol=1e-4, atol=1e-4 * features.abs().max().item())
            mask = together[level].mask[index]
            assert mask[:h, :w].all()
            assert mask.sum() == h * w
            leaks = max(leaks, (original[level].features[index, :, :h, :w] - features[0]).abs().max().item())
    assert leaks > 0.01  # in the original mode padding does leak; otherwise this test would prove nothing
    pixel_values[~pixel_mask.bool()[:, None].expand_as(pixel_values)] = float("nan")
    for before, after in zip(together, encoder(pixel_values, pixel_mask.bool(), exact_padding=True), strict=True):
        assert torch.equal(before.features, after.features)


def test_exact_padding_is_refused_where_it_is_not():
    encoder = DetrConvEncoder(DetrConfig(backbone="regnety_002"))
    pixel_values, pixel_mask = padded_batch([(64, 64), (32, 40)])
    with pytest.raises(ValueError, match="exact_padding=True: this backbone"):
        encoder(pixel_values, pixel_mask.bool(), exact_padding=True)


@torch.no_grad()
def randomize(module):
    """Noise in every weight and statistic, at a scale that neither explodes nor vanishes."""
    generator = torch.Generator().manual_seed(0)
    for tensor in filter(torch.is_floating_point, (*module.parameters(), *module.buffers())):
        if tensor.dim() > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5)
        else:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@pytest.mark.parametrize(
    ("name", "fused"),
    [("resnet18", 20), ("mobilenetv2_100", 51), ("resnetv2_50", 32), ("repvgg_a0", 44), ("convnext_atto", 0)],
)
def test_fusing_changes_no_feature(name, fused):
    """Some norms of resnetv2 and repvgg stand where another layer uses the convolution's output too."""
    encoder = DetrConvEncoder(DetrConfig(backbone=name, fast_paths=False)).eval()
    randomize(encoder)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    norms = sum(isinstance(module, DetrFrozenBatchNorm2d) for module in encoder.modules())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        apart = encoder(images, None)
        encoder.fuse()
        assert norms - sum(isinstance(module, DetrFrozenBatchNorm2d) for module in encoder.modules()) == fused
        together = encoder(images, None)
        encoder.config.fast_paths = True
        fast = encoder(images, None)
        encoder.unfuse()
    for one, other, third in zip(together, apart, fast, strict=True):
        assert (one.features - other.features).abs().max() < 1e-5 * other.features.abs().max()
        assert (third.features - other.features).abs().max() < 1e-5 * other.features.abs().max()
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_fast_paths_give_the_gradients_of_the_layers():
    encoder = DetrConvEncoder(tiny_config())
    randomize(encoder)
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for fast in (True, False):
        encoder.config.fast_paths = fast
        encoder.zero_grad()
        encoder(images, None)[-1].features.square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == 15
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-4 * gradient.abs().max().item()), name


def test_a_norm_that_is_put_in_place_of_a_frozen_one_is_used():
    encoder = DetrConvEncoder(tiny_config()).eval()
    randomize(encoder)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder.model.act1(nn.functional.conv2d(images, encoder.model.conv1.weight, None, 2, 3))
        encoder.model.bn1 = nn.Identity()
        found = []
        encoder.model.act1.register_forward_hook(lambda module, inputs, output: found.append(output.clone()))
        encoder(images, None)
    assert torch.allclose(found[0], expected, atol=1e-5)
