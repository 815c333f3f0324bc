"""`model.fuse()`: the same results, fewer layers, and no way to lose weights by it."""

import copy

import accelerate
import pytest
import torch
from tiny_detector import save, tiny_detector
from tiny_detr import padded_batch, randomize_norms, tiny_config
from torch import nn

from transformers_detr import Detector, DetrForObjectDetection, DetrForSegmentation
from transformers_detr.inference.predictions import model_digest
from transformers_detr.model.frozen_batch_norm_detr import DetrFrozenBatchNorm2d

IMAGES, MASK = padded_batch([(96, 128), (64, 100)])


def model_of(kind=DetrForObjectDetection, **changes):
    torch.manual_seed(0)
    model = kind(tiny_config(**changes)).eval()
    randomize_norms(model)
    return model


def outputs_of(model, **more):
    with torch.inference_mode():
        found = model(pixel_values=IMAGES.to(model.dtype), pixel_mask=MASK, **more)
    return [value for name, value in found.items() if name in ("logits", "pred_boxes", "pred_masks")]


def norms_of(model):
    return sum(isinstance(module, DetrFrozenBatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("exact_padding", [False, True])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet26", "mobilenetv2_050"])
@pytest.mark.parametrize("kind", [DetrForObjectDetection, DetrForSegmentation])
def test_fusing_and_back(kind, backbone, exact_padding):
    model = model_of(kind, backbone=backbone, encoder_attention_heads=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    expected = outputs_of(model, exact_padding=exact_padding)
    assert model.fuse() is model.fuse() is model
    assert model.is_fused
    assert norms_of(model) == 0
    assert {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d}
    for fused, wanted in zip(outputs_of(model, exact_padding=exact_padding), expected, strict=True):
        assert (fused - wanted).abs().max() < 2e-4 * wanted.abs().max().clamp(min=1)
    model.unfuse()
    assert not model.is_fused
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name for name, value in model.named_parameters() if value.requires_grad} == trainable
    for back, wanted in zip(outputs_of(model, exact_padding=exact_padding), expected, strict=True):
        assert torch.equal(back, wanted)


def test_a_fused_model_is_not_trained_or_saved(tmp_path):
    model = model_of().fuse()
    with pytest.raises(RuntimeError, match=r"inference only: call model\.unfuse"):
        model.train()
    with pytest.raises(RuntimeError, match=r"cannot be saved: call model\.unfuse"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    assert model.eval() is model
    assert model.unfuse().train().training


def test_unfusing_after_a_change_of_dtype_and_of_a_copy():
    model = model_of().fuse()
    other = copy.deepcopy(model).to(torch.bfloat16).unfuse()
    assert norms_of(other) == 20
    assert {value.dtype for value in other.state_dict().values()} == {torch.bfloat16}
    assert model.is_fused  # the copy is another model
    plain = model_of().to(torch.bfloat16)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in other.state_dict().items())


def test_offloaded_models_are_left_alone():
    model = accelerate.cpu_offload(model_of(), execution_device=torch.device("cpu"), offload_buffers=True)
    expected = outputs_of(model)
    assert not model.fuse().is_fused
    assert all(torch.equal(*pair) for pair in zip(outputs_of(model), expected, strict=True))


def test_detectors_load_fused_models(tmp_path):
    made = tiny_detector()
    folder = save(made, tmp_path)
    loaded = Detector.from_pretrained(folder, device="cpu")
    assert loaded.model.is_fused
    assert not made.model.is_fused  # a model that a caller made is not changed
    assert model_digest(loaded.model) == model_digest(made.model)
    assert loaded.model.is_fused
