from __future__ import annotations

import pytest
import torch
from torch import nn

from transformers_detr.model.backbone_detr import DetrConvEncoder
from transformers_detr.model.frozen_batch_norm_detr import freeze_batch_norms
from transformers_detr.training.trainable_batch_norm import TrainableBatchNorm2d, make_batch_norms_trainable


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv2_100"])
def test_in_evaluation_a_live_norm_is_the_frozen_one(tiny_model, backbone):
    model = tiny_model(backbone=backbone).eval()
    for name, value in model.named_buffers():
        if "running_mean" in name:
            value.normal_()
        elif "running_var" in name:
            value.uniform_(0.5, 2)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images).logits
        make_batch_norms_trainable(model)
        assert any(isinstance(module, TrainableBatchNorm2d) for module in model.modules())
        model.eval()
        torch.testing.assert_close(model(images).logits, before, rtol=1e-4, atol=1e-5)
        freeze_batch_norms(model)
        torch.testing.assert_close(model(images).logits, before, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_live_norms_learn_and_follow_the_statistics(tiny_model):
    backbone = tiny_model().model.backbone.conv_encoder
    assert isinstance(backbone, DetrConvEncoder)
    backbone.requires_grad_(True)
    make_batch_norms_trainable(backbone)
    backbone.train()
    features = backbone(3 + torch.randn(4, 3, 64, 64), None)[-1].features
    features.square().sum().backward()
    norms = [module for module in backbone.modules() if isinstance(module, TrainableBatchNorm2d)]
    assert norms[0].weight.grad.abs().sum() > 0
    assert norms[0].bias.grad.abs().sum() > 0
    assert all(norm.running_mean.abs().sum() > 0 for norm in norms)
