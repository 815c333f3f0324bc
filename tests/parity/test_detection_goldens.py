"""The original's numbers on reproducible weights: each image alone, and the padded batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detr import tiny_config

from key_map import to_stored
from transformers_detr import (
    DetrConfig,
    DetrForObjectDetection,
    TableTransformerConfig,
    TableTransformerForObjectDetection,
)
from transformers_detr.model.image_processing_detr import DetrImageProcessor

LOGITS, BOXES = 1e-3, 5e-5  # called fair by the golden README; mistakes cost more

CONFIGS = {
    "detr-tiny": lambda: tiny_config(auxiliary_loss=True),
    "detr-r50": lambda: DetrConfig(num_labels=91, auxiliary_loss=True),
    "detr-r50-dc5": lambda: DetrConfig(num_labels=91, dilation=True, auxiliary_loss=True),
    "detr-tiny-prenorm": lambda: tiny_config(TableTransformerConfig, auxiliary_loss=True),
    "tatr-detection": lambda: TableTransformerConfig(
        backbone="resnet18", num_labels=2, num_queries=15, auxiliary_loss=True
    ),
}
PROCESSOR = DetrImageProcessor(do_resize=False)  # the golden images are already small


@pytest.fixture(scope="module", params=CONFIGS)
def variant(request, golden_state_dict):
    config = CONFIGS[request.param]()
    pre_norm = isinstance(config, TableTransformerConfig)
    model = (TableTransformerForObjectDetection if pre_norm else DetrForObjectDetection)(config).eval()
    model.load_state_dict(to_stored(golden_state_dict(request.param)), strict=True)
    return request.param, model


@pytest.fixture
def images(golden_path):
    return {name: Image.open(golden_path("inputs", f"{name}.png")).convert("RGB") for name in "AB"}


def labels(count):
    return [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * count


@pytest.mark.parametrize("batch", ["A", "B", "AB"])
@torch.no_grad()
def test_predictions_of_all_layers(variant, batch, images, golden_tensors):
    name, model = variant
    golden = golden_tensors(f"{name}.outputs.safetensors")
    inputs = PROCESSOR([images[image] for image in batch], return_tensors="pt")
    output = model(**inputs, labels=labels(len(batch)))  # labels only to be given the layers before the last
    assert (output.logits - golden[f"{batch}/pred_logits"]).abs().max() < LOGITS
    assert (output.pred_boxes - golden[f"{batch}/pred_boxes"]).abs().max() < BOXES
    for layer, predictions in enumerate(output.auxiliary_outputs):
        stored = golden.get(f"{batch}/aux_outputs.{layer}.pred_logits")
        if stored is not None:  # not recorded for dc5, and for tatr of the batch only
            assert (predictions["logits"] - stored).abs().max() < LOGITS
            boxes = golden[f"{batch}/aux_outputs.{layer}.pred_boxes"]
            assert (predictions["pred_boxes"] - boxes).abs().max() < BOXES
    recorded = name != "detr-r50-dc5" and (name != "tatr-detection" or batch == "AB")
    assert (f"{batch}/aux_outputs.0.pred_logits" in golden) == recorded


@pytest.mark.parametrize("batch", ["A", "AB"])
@torch.no_grad()
def test_every_step_on_the_way(variant, batch, images, golden_tensors):
    name, model = variant
    golden = golden_tensors(f"{name}.outputs.safetensors")
    inputs = PROCESSOR([images[image] for image in batch], return_tensors="pt")
    encoded = model.model.encode(**inputs)
    height, width = encoded.projected.shape[-2:]

    def recorded(key):
        whole = golden.get(f"{batch}/{key}")
        return whole if whole is not None else golden[f"{batch}/{key}_first16"]

    def as_map(tokens):
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    steps = {
        "backbone_features": encoded.pyramid[-1].features,
        "position_embedding": as_map(encoded.positions),
        "input_proj": encoded.projected,
        "encoder_memory": as_map(encoded.memory.last_hidden_state),
    }
    pre_norm = isinstance(model.config, TableTransformerConfig)
    for key in ["input_proj", "encoder_memory"] if pre_norm else steps:
        tensor, expected = steps[key], recorded(key)
        assert (tensor[:, : expected.shape[1]] - expected).abs().max() < 1e-4, key
    if pre_norm:
        return  # no masks are recorded
    padding = recorded("feature_mask").bool()  # the original marks padding, not pixels
    mask = encoded.mask.unflatten(1, (height, width)) if encoded.mask is not None else torch.ones_like(padding)
    assert torch.equal(~mask, padding)


@torch.no_grad()
def test_tiny_in_double_precision_is_closer_still(images, golden_state_dict, golden_tensors):
    model = DetrForObjectDetection(tiny_config()).eval()
    model.load_state_dict(to_stored(golden_state_dict("detr-tiny")), strict=True)
    golden = golden_tensors("detr-tiny.outputs_f64.safetensors")
    inputs = PROCESSOR([images["A"], images["B"]], return_tensors="pt")
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (PROCESSOR.image_mean, PROCESSOR.image_std))
    for index, image in enumerate(images.values()):  # rounded as the original rounds, in three steps
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255).sub(mean).div(std)
        inputs["pixel_values"][index, :, : values.shape[1], : values.shape[2]] = values
    output = model.double()(inputs["pixel_values"].double(), inputs["pixel_mask"])
    assert (output.logits - golden["AB/pred_logits"]).abs().max() < 1e-5
    assert (output.pred_boxes - golden["AB/pred_boxes"]).abs().max() < 1e-6


def test_pixel_values_are_the_originals(images, golden_tensors):
    golden = golden_tensors("inputs/inputs.safetensors")
    for name, image in images.items():
        values = PROCESSOR(image, return_tensors="pt")["pixel_values"][0]
        corner = next(tensor for key, tensor in golden.items() if name in key and tensor.shape[-2:] == (8, 8))
        assert (values[:, :8, :8] - corner).abs().max() < 1e-5
        by_hand = (np.asarray(image.convert("RGB")) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert np.abs(values.permute(1, 2, 0).numpy() - by_hand).max() < 1e-5


@torch.no_grad()
def test_exact_padding_differs_only_by_the_padding(variant, images):
    """D20: alone and in the batch agree in exact padding, and differ by far in the original's way."""
    _, model = variant
    together = PROCESSOR([images["A"], images["B"]], return_tensors="pt")
    exact = model(**together, exact_padding=True)
    original = model(**together)
    for index, name in enumerate("AB"):
        alone = model(**PROCESSOR(images[name], return_tensors="pt"), exact_padding=True)
        assert (exact.logits[index] - alone.logits[0]).abs().max() < LOGITS
        assert (exact.pred_boxes[index] - alone.pred_boxes[0]).abs().max() < BOXES
        assert (original.logits[index] - alone.logits[0]).abs().max() > 100 * LOGITS
