"""What Transformers asks of its models, of all three classes, on a backbone of three feature maps."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config

from transformers_detr import DetrForObjectDetection, DetrForSegmentation, DetrModel
from transformers_detr.model.frozen_batch_norm_detr import DetrFrozenBatchNorm2d

BACKBONE = {**NATIVE_BACKBONE, "out_features": NATIVE_BACKBONE["out_features"][1:]}
MODELS = [DetrModel, DetrForObjectDetection, DetrForSegmentation]


def build(model_class):
    torch.manual_seed(0)
    config = tiny_config(backbone_config=BACKBONE, encoder_attention_heads=8, decoder_attention_heads=8, dropout=0.0)
    model = model_class(config).eval()
    randomize_norms(model)
    return model


@pytest.fixture(scope="module")
def batch():
    return padded_batch([(65, 96), (40, 60)])


@pytest.fixture(params=MODELS, ids=lambda model_class: model_class.__name__)
def model(request):
    return build(request.param)


def tensors(model):
    return [*model.named_parameters(), *model.named_buffers()]


def test_init_weights_restores_everything_after_to_empty(model):
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    assert {name for name, _ in tensors(empty)} == {name for name, _ in tensors(model)}
    assert all(tensor.is_meta for _, tensor in tensors(empty))
    empty.to_empty(device="cpu")
    for _, tensor in tensors(empty):
        torch.nn.init.constant_(tensor, float("nan"))
    empty.init_weights()
    for name, tensor in tensors(empty):
        assert torch.isfinite(tensor).all(), name
    norm = next(module for module in empty.modules() if isinstance(module, DetrFrozenBatchNorm2d))
    assert [t.mean().item() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)] == [1, 0, 0, 1]


@torch.no_grad()
def test_every_layer_is_recorded(model, batch):
    output = model(*batch, output_attentions=True, output_hidden_states=True)
    tokens, queries = 3 * 3, 10
    shapes = {
        "encoder_attentions": (2, 8, tokens, tokens),
        "decoder_attentions": (2, 8, queries, queries),
        "cross_attentions": (2, 8, queries, tokens),
    }
    for name, shape in shapes.items():
        assert [tuple(maps.shape) for maps in output[name]] == [shape] * 2, name
    assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 3
    absent = model(*batch)
    assert not any(name.endswith(("attentions", "hidden_states")) for name in absent)


@torch.no_grad()
def test_saved_and_loaded_in_each_dtype(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        loaded, info = type(model).from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
        assert not any(info.values()), info
        assert {tensor.dtype for _, tensor in tensors(loaded)} == {dtype}
        expected = copy.deepcopy(model).to(dtype)(*batch).last_hidden_state
        assert torch.equal(loaded.eval()(*batch).last_hidden_state, expected)


def test_modules_kept_in_float32_stay_so(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(type(model), "_keep_in_fp32_modules_strict", {"layernorm", "bbox_attention"})
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float16)
    for name, tensor in tensors(loaded):
        kept = {"layernorm", "bbox_attention"} & set(name.split("."))
        assert tensor.dtype == (torch.float32 if kept else torch.float16), name


@torch.no_grad()
def test_the_base_model_is_loaded_from_a_model_with_heads(batch, tmp_path):
    detector = build(DetrForObjectDetection)
    detector.save_pretrained(tmp_path / "detector")
    base = DetrModel.from_pretrained(tmp_path / "detector").eval()
    assert torch.equal(base(*batch).last_hidden_state, detector(*batch).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    again, info = DetrForObjectDetection.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"class_labels_classifier", "bbox_predictor"}
    assert torch.equal(again.eval()(*batch).last_hidden_state, detector(*batch).last_hidden_state)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in peft
def test_adapters_learn_with_gradient_checkpointing(model, batch):
    peft = pytest.importorskip("peft")
    gradients = []
    for checkpointing in (False, True):
        adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=["fc1", "fc2"]))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)  # zeros would leave the other half without a gradient
            elif "lora_A" in name:
                torch.nn.init.uniform_(parameter, generator=torch.Generator().manual_seed(0))
        if checkpointing:
            enable = getattr(adapted, "activation_checkpointing_enable", None) or adapted.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        adapted.train()(*batch).last_hidden_state.square().sum().backward()
        gradients.append({name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad})
    assert len(gradients[0]) == 16
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-6), name
