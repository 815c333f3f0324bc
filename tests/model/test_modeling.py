"""DetrModel and DetrForObjectDetection as parts of the framework."""

from __future__ import annotations

import copy
import json
import math

import pytest
import timm
import torch
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import ResNetConfig, ResNetForImageClassification

from transformers_detr import DetrConfig, DetrForObjectDetection, DetrModel
from transformers_detr.model import modeling_detr

SIZES = [(96, 128), (50, 70)]

DINO = {
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "image_size": 64,
    "out_features": ["stage1", "stage2"],
}
"""A backbone that has attention."""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config()).eval()
    randomize_norms(model)
    return model


@pytest.fixture(scope="module")
def batch():
    return padded_batch(SIZES)


def labels():
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    return [{"class_labels": torch.tensor([index]), "boxes": box} for index in range(len(SIZES))]


@torch.no_grad()
def test_attention_implementations_agree_and_all_give_maps(model, batch):
    expected = model(*batch)
    for implementation in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(implementation)
        if implementation != "flex_attention":  # compiles for minutes where it may not run eagerly
            assert torch.allclose(model(*batch).logits, expected.logits, atol=1e-5)
        output = model(*batch, output_attentions=True, output_hidden_states=True)
        assert torch.allclose(output.logits, expected.logits, atol=1e-5)
        tokens, queries = 3 * 4, 10
        assert [tuple(maps.shape) for maps in output.encoder_attentions] == [(2, 4, tokens, tokens)] * 2
        assert [tuple(maps.shape) for maps in output.decoder_attentions] == [(2, 4, queries, queries)] * 2
        assert [tuple(maps.shape) for maps in output.cross_attentions] == [(2, 4, queries, tokens)] * 2
        for maps in (*output.encoder_attentions, *output.decoder_attentions, *output.cross_attentions):
            assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)
        assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 3
        assert torch.equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
        assert torch.equal(output.decoder_hidden_states[-1], output.last_hidden_state)
    model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("backbone", [{}, {"backbone_config": NATIVE_BACKBONE}, {"backbone_config": DINO}])
@torch.no_grad()
def test_attention_is_chosen_whatever_the_backbone(backbone, batch, tmp_path):
    """Stock refuses "sdpa" for the sake of `ResNetBackbone`, and maps by the config without the eager one."""
    torch.manual_seed(0)
    DetrForObjectDetection(tiny_config(**backbone)).save_pretrained(tmp_path)
    expected = DetrForObjectDetection.from_pretrained(tmp_path).eval()(*batch).logits
    for name in ("eager", "sdpa"):
        loaded = DetrForObjectDetection.from_pretrained(tmp_path, attn_implementation=name, output_attentions=True)
        assert (loaded.config._attn_implementation, loaded.config.output_attentions) == (name, True)
        output = loaded.eval()(*batch)
        assert torch.allclose(output.logits, expected, atol=1e-5)
        assert len(output.cross_attentions) == 2
        loaded.set_attn_implementation("flex_attention")
        assert loaded.config._attn_implementation == "flex_attention"
        loaded.save_pretrained(tmp_path / name)
        again = DetrForObjectDetection(DetrConfig.from_pretrained(tmp_path / name, attn_implementation=name))
        assert (again.config._attn_implementation, again.config.output_attentions) == (name, True)


@pytest.mark.parametrize(("backbone", "its_own"), [(NATIVE_BACKBONE, "eager"), (DINO, "sdpa")])
def test_attention_reaches_a_backbone_that_has_any(backbone, its_own):
    config = tiny_config(backbone_config=backbone)
    for name in ("eager", "sdpa"):
        config._attn_implementation = name
        assert config.backbone_config._attn_implementation == name
    model = DetrForObjectDetection(config)
    assert (config._attn_implementation, config.backbone_config._attn_implementation) == ("sdpa", its_own)
    for name, of_backbone in (("eager", "eager"), ("sdpa", its_own)):
        model.set_attn_implementation(name)
        assert (config._attn_implementation, config.backbone_config._attn_implementation) == (name, of_backbone)
    model.set_attn_implementation({"": "eager", "backbone_config": its_own})
    assert (config._attn_implementation, config.backbone_config._attn_implementation) == ("eager", its_own)
    with pytest.raises(ValueError, match="nothing"):
        model.set_attn_implementation("nothing")


@torch.no_grad()
def test_padding_is_not_attended_to(model, batch):
    output = model(*batch, output_attentions=True)
    mask = nn.functional.interpolate(batch[1][None].float(), size=(3, 4))[0].flatten(1) > 0
    assert not mask.all()
    for maps in (*output.encoder_attentions, *output.cross_attentions):
        assert maps[1][..., ~mask[1]].abs().max() == 0


@torch.no_grad()
def test_auxiliary_loss_changes_no_prediction(model, batch):
    expected = model(*batch)
    with_auxiliary = copy.deepcopy(model)
    with_auxiliary.config.auxiliary_loss = True
    output = with_auxiliary(*batch, labels=labels())
    assert torch.allclose(output.logits, expected.logits, atol=1e-6)  # stacked layers round differently
    assert torch.allclose(output.pred_boxes, expected.pred_boxes, atol=1e-6)
    assert len(output.auxiliary_outputs) == 1
    assert {"loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "loss_bbox_0", "loss_giou_0"} <= set(output.loss_dict)
    intermediate = with_auxiliary.model(*batch).intermediate_hidden_states
    logits, boxes = with_auxiliary.predict(intermediate)
    assert torch.equal(logits[0], output.auxiliary_outputs[0]["logits"])
    assert torch.equal(boxes[0], output.auxiliary_outputs[0]["pred_boxes"])


@torch.no_grad()
def test_a_mask_of_ones_is_no_mask(model):
    pixel_values = torch.randn(2, 3, 64, 96)
    expected = model(pixel_values)
    seen = []
    hook = model.model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    output = model(pixel_values, torch.ones(2, 64, 96, dtype=torch.int64))
    hook.remove()
    assert seen == [None]
    assert torch.equal(output.logits, expected.logits)


@torch.no_grad()
def test_exact_padding_makes_predictions_independent_of_the_batch(model, batch):
    pixel_values, pixel_mask = batch
    exact = model(pixel_values, pixel_mask, exact_padding=True)
    original = model(pixel_values, pixel_mask)
    for index, (height, width) in enumerate(SIZES):
        alone = model(pixel_values[index : index + 1, :, :height, :width])
        assert torch.allclose(exact.logits[index], alone.logits[0], atol=1e-5)
        assert torch.allclose(exact.pred_boxes[index], alone.pred_boxes[0], atol=1e-5)
    assert not torch.allclose(exact.logits[1], original.logits[1], atol=1e-3)
    by_config = copy.deepcopy(model)
    by_config.config.exact_padding = True
    assert torch.equal(by_config(pixel_values, pixel_mask).logits, exact.logits)
    assert torch.equal(by_config(pixel_values, pixel_mask, exact_padding=False).logits, original.logits)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@torch.no_grad()
def test_half_precision_takes_float32_images(model, batch, dtype, tolerance):
    half = copy.deepcopy(model).to(dtype)
    output = half(*batch, labels=labels())
    assert output.logits.dtype == dtype
    assert (output.pred_boxes.float() - model(*batch).pred_boxes).abs().max() < tolerance
    assert output.loss.dtype == torch.float32
    assert torch.isfinite(output.loss)


def test_gradient_checkpointing_gives_the_same_gradients(model, batch):
    gradients = []
    for checkpointing in (False, True):
        training = copy.deepcopy(model).train()
        for module in training.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            training._set_gradient_checkpointing(
                True,
                lambda function, *inputs: torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False),
            )
        training(*batch, labels=labels()).loss.backward()
        gradients.append({n: p.grad for n, p in training.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any("fc1" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_halves_compose_to_the_forward(model, batch):
    expected = model(*batch)
    encoded = model.model.encode(*batch)
    assert encoded.memory.last_hidden_state.shape == (2, 12, 32)
    assert [level.features.shape[1] for level in encoded.pyramid] == [64, 128, 256, 512]
    logits, boxes = model.predict(model.model.decode(encoded).last_hidden_state)
    assert torch.equal(logits, expected.logits)
    assert torch.equal(boxes, expected.pred_boxes)


@torch.no_grad()
def test_precomputed_inputs_are_used(model):
    pixel_values = torch.randn(1, 3, 64, 64)
    expected = model(pixel_values)
    encoded = model.model.encode(pixel_values)
    from_encoder = model(pixel_values, encoder_outputs=(encoded.memory.last_hidden_state,))
    assert torch.equal(from_encoder.logits, expected.logits)
    tokens = encoded.projected.flatten(2).transpose(1, 2)
    assert torch.allclose(model(inputs_embeds=tokens).logits, expected.logits, atol=1e-6)
    assert not torch.allclose(model(pixel_values, decoder_inputs_embeds=torch.ones(1, 10, 32)).logits, expected.logits)
    without_last = torch.tensor([[1] * 9 + [0]])
    output = model(pixel_values, decoder_attention_mask=without_last, output_attentions=True)
    for maps in output.decoder_attentions:
        assert maps[..., -1].abs().max() == 0


@torch.no_grad()
def test_tuples_hold_what_the_object_holds(model, batch):
    output = model(*batch)
    as_tuple = model(*batch, return_dict=False)
    assert len(as_tuple) == len(output.to_tuple())
    assert torch.equal(as_tuple[0], output.logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either pixel_values or inputs_embeds"),
        ({"pixel_values": torch.zeros(3, 64, 64)}, r"\(B, 3, H, W\), got \(3, 64, 64\)"),
        ({"pixel_values": torch.zeros(1, 1, 64, 64)}, r"got \(1, 1, 64, 64\)"),
        (
            {"pixel_values": torch.zeros(1, 3, 64, 64), "pixel_mask": torch.ones(1, 64, 32)},
            r"\(1, 64, 64\), got \(1, 64, 32\)",
        ),
        ({"inputs_embeds": torch.zeros(1, 5, 32)}, "square feature map, got 5 tokens"),
    ],
)
def test_wrong_arguments_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def bounds(weight):
    return weight.abs().max().item()


def test_initialization_is_the_originals():
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config(d_model=64, num_queries=300))
    layer = model.model.decoder.layers[0]
    # Xavier over the stacked (3 D, D) matrix; over (D, D); over (FFN, D)
    for weight, fan in ((layer.self_attn.q_proj.weight, 64 * 4), (layer.encoder_attn.out_proj.weight, 64 * 2)):
        assert 0.97 * math.sqrt(6 / fan) < bounds(weight) <= math.sqrt(6 / fan)
    assert 0.97 * math.sqrt(6 / 128) < bounds(layer.fc1.weight) <= math.sqrt(6 / 128)
    assert bounds(layer.self_attn.q_proj.bias) == 0
    assert 0 < bounds(layer.fc1.bias) <= 1 / 8
    for head in (model.class_labels_classifier, *model.bbox_predictor.layers):
        assert 0.9 / 8 < bounds(head.weight) <= 1 / 8  # torch's default
    assert abs(model.model.query_position_embeddings.weight.std().item() - 1) < 0.03


def test_a_backbone_keeps_what_its_library_gave_it():
    torch.manual_seed(0)
    timms = timm.create_model("resnet18", features_only=True, out_indices=(-4, -3, -2, -1))
    torch.manual_seed(0)
    backbone = DetrModel(tiny_config()).backbone.conv_encoder.model
    for name, parameter in timms.named_parameters():
        if "bn" not in name and "downsample.1" not in name:
            assert torch.equal(parameter, backbone.get_parameter(name)), name


@pytest.fixture
def backbone_downloads(monkeypatch):
    """Which backbones were asked for with pretrained weights; nothing is downloaded."""
    asked = []
    create_model = timm.create_model

    def record(name, pretrained=False, **kwargs):
        asked.append(pretrained)
        return create_model(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", record)
    return asked


def test_pretrained_backbone_is_fetched_from_a_config_and_never_for_a_checkpoint(backbone_downloads, tmp_path):
    model = DetrForObjectDetection(tiny_config(use_pretrained_backbone=True))
    assert backbone_downloads == [True]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["use_pretrained_backbone"] is False
    assert model.config.use_pretrained_backbone is True

    stored = json.loads((tmp_path / "config.json").read_text()) | {"use_pretrained_backbone": True}
    (tmp_path / "config.json").write_text(json.dumps(stored))  # as old files on the Hub have it
    backbone_downloads.clear()
    DetrForObjectDetection.from_pretrained(tmp_path)
    assert backbone_downloads == [False]


def test_a_backbone_of_transformers_by_its_folder(tmp_path):
    fields = {name: value for name, value in NATIVE_BACKBONE.items() if name not in ("model_type", "out_features")}
    torch.manual_seed(0)
    stored = ResNetForImageClassification(ResNetConfig(**fields))
    stored.save_pretrained(tmp_path / "resnet")
    named = {"backbone": str(tmp_path / "resnet"), "use_timm_backbone": False}
    config = tiny_config(**named, backbone_kwargs={"out_indices": [2, 3, 4]}, use_pretrained_backbone=True)
    assert config.backbone_config.hidden_sizes == NATIVE_BACKBONE["hidden_sizes"]
    model = DetrForObjectDetection(config)
    assert model.model.backbone.intermediate_channel_sizes == [32, 64, 128]
    weights = stored.resnet.state_dict()
    for name, weight in model.model.backbone.conv_encoder.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert model.model.backbone.conv_encoder.model.config is config.backbone_config
    model.save_pretrained(tmp_path / "detr")
    stored.resnet.embedder.embedder.convolution.weight.data.zero_()
    stored.save_pretrained(tmp_path / "resnet")  # which loading the checkpoint does not look at
    loaded = DetrForObjectDetection.from_pretrained(tmp_path / "detr")
    assert all(torch.equal(weight, loaded.get_parameter(name)) for name, weight in model.named_parameters())
    with pytest.raises(ValueError, match="does not name where its weights are"):
        DetrForObjectDetection(tiny_config(backbone_config=NATIVE_BACKBONE, use_pretrained_backbone=True))


@pytest.mark.parametrize("changes", [{}, {"backbone_config": NATIVE_BACKBONE}, {"position_embedding_type": "learned"}])
@torch.no_grad()
def test_saved_models_load_bit_for_bit(changes, tmp_path, batch):
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config(**changes)).eval()
    randomize_norms(model)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["model_type"], stored["architectures"]) == ("detr", ["DetrForObjectDetection"])
    loaded, info = DetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(loaded.eval()(*batch).logits, model(*batch).logits)
    placed = DetrForObjectDetection.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(placed.eval()(*batch).logits, model(*batch).logits)
    half = DetrForObjectDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_old_files_load(tmp_path, batch):
    """`pytorch_model.bin`, `num_batches_tracked`, learned positions where transformers 4 had them."""
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config(position_embedding_type="learned")).eval()
    model.config.save_pretrained(tmp_path)
    state = {
        name.replace("model.position_embedding.", "model.backbone.position_embedding."): tensor
        for name, tensor in model.state_dict().items()
    }
    state["model.backbone.conv_encoder.model.bn1.num_batches_tracked"] = torch.tensor(3)
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded, info = DetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert torch.equal(loaded.eval()(*batch).logits, model(*batch).logits)
    loaded.save_pretrained(tmp_path / "again")
    again = DetrForObjectDetection.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(*batch).logits, model(*batch).logits)


def test_freezing_and_unfreezing_the_backbone():
    model = DetrModel(tiny_config())
    before = {n for n, p in model.named_parameters() if p.requires_grad}
    model.freeze_backbone()
    assert not any(p.requires_grad for p in model.backbone.parameters())
    model.unfreeze_backbone()
    assert {n for n, p in model.named_parameters() if p.requires_grad} == before
    assert not any("layer1" in name for name in before)


@pytest.mark.parametrize("exact_padding", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiles_without_graph_breaks_for_every_size(model, batch, exact_padding):
    assert model.supports_exact_padding  # a graph cannot hold the trial
    torch._dynamo.reset()
    graphs = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    others = [padded_batch([(80, 64), (64, 50), (33, 40)], seed=1), padded_batch([(200, 333), (331, 100)], seed=2)]
    with torch.no_grad():
        for pixel_values, pixel_mask in (batch, *others):
            expected = model(pixel_values, pixel_mask, exact_padding=exact_padding)
            output = compiled(pixel_values, pixel_mask, exact_padding=exact_padding)
            assert torch.allclose(output.logits, expected.logits, atol=1e-5)
    assert graphs.frame_count == 1  # one graph for batches and images of all sizes
    torch._dynamo.reset()


def test_compiles_once_for_images_alone(model):
    """Below 40 cells of the last feature map, torch 2.14 looks at sizes to choose its convolutions for one thread."""
    torch._dynamo.reset()
    graphs = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=graphs)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for height, width in [(200, 256), (256, 200), (225, 301), (320, 431)]:
            pixel_values = torch.randn(1, 3, height, width, generator=generator)
            torch.testing.assert_close(compiled(pixel_values).logits, model(pixel_values).logits)
    assert graphs.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("exact_padding", [False, True])
def test_exports_with_dynamic_sizes(model, batch, exact_padding):
    """Half a minute each."""
    assert model.supports_exact_padding
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        model,
        batch,
        kwargs={"exact_padding": exact_padding},
        dynamic_shapes={
            "pixel_values": {0: auto, 2: auto, 3: auto},
            "pixel_mask": {0: auto, 1: auto, 2: auto},
            "exact_padding": None,
        },
        strict=False,
    )
    other = padded_batch([(160, 100), (130, 90), (64, 64)], seed=1)
    with torch.no_grad():
        expected = model(*other, exact_padding=exact_padding)
        output = program.module()(*other, exact_padding=exact_padding)
    assert torch.allclose(output.logits, expected.logits, atol=1e-5)


def test_modules_bear_the_stored_names():
    """The names of 2021, of which every published file consists."""
    names = set(DetrForObjectDetection(tiny_config()).state_dict())
    for name in (
        "model.backbone.conv_encoder.model.conv1.weight",
        "model.backbone.conv_encoder.model.layer1.0.bn1.running_var",
        "model.encoder.layers.0.self_attn.out_proj.weight",
        "model.encoder.layers.0.fc1.weight",
        "model.decoder.layers.1.encoder_attn.q_proj.bias",
        "model.decoder.layernorm.weight",
        "model.query_position_embeddings.weight",
        "model.input_projection.weight",
        "class_labels_classifier.weight",
        "bbox_predictor.layers.0.weight",
    ):
        assert name in names
    assert modeling_detr.DetrPreTrainedModel.base_model_prefix == "model"
