"""A tiny model with seeded weights against what the original computed: needs nothing outside of this repository."""

import json
from pathlib import Path

import pytest
import torch
from seeded_weights import CLASSES, FFN, HEADS, LAYERS, QUERIES, WIDTH, seeded_images, seeded_state_dict, seeded_targets

from key_map import to_original, to_stored
from transformers_detr import DetrConfig, DetrForObjectDetection

LOGITS, BOXES, LOSSES = 1e-4, 1e-5, 1e-5
CONFIG = {
    "backbone": "resnet18",
    "num_labels": CLASSES,
    "num_queries": QUERIES,
    "d_model": WIDTH,
    "dropout": 0.0,
    "auxiliary_loss": True,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), FFN),
}


@pytest.fixture(scope="module")
def golden():
    return json.loads(Path(__file__).with_name("golden_tiny.json").read_text(encoding="utf-8"))


@pytest.fixture
def model(golden):
    model = DetrForObjectDetection(DetrConfig(**CONFIG))
    model.load_state_dict(to_stored(seeded_state_dict({name: tuple(s) for name, s in golden["shapes"].items()})))
    return model


def inputs(images):
    """Pad with zeros at the bottom and right, by hand."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    pixels, mask = torch.zeros(len(images), 3, height, width), torch.zeros(len(images), height, width)
    for index, image in enumerate(images):
        pixels[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = 1
    return {"pixel_values": pixels, "pixel_mask": mask}


@pytest.mark.parametrize(("name", "chosen"), [("first", slice(0, 1)), ("second", slice(1, 2)), ("both", slice(0, 2))])
@torch.no_grad()
def test_predictions_equal_the_originals(model, golden, name, chosen):
    outputs = model.eval()(**inputs(seeded_images()[chosen]))
    assert (outputs.logits - torch.tensor(golden[name]["pred_logits"])).abs().max() < LOGITS
    assert (outputs.pred_boxes - torch.tensor(golden[name]["pred_boxes"])).abs().max() < BOXES


def test_the_images_matter(golden):
    """The recorded numbers differ by far more than the tolerance between images, and with padding."""
    first, second, both = (torch.tensor(golden[name]["pred_boxes"]) for name in ("first", "second", "both"))
    assert (first - second).abs().max() > 100 * BOXES
    assert (both[1] - second[0]).abs().max() > 100 * BOXES


def test_losses_and_gradients_equal_the_originals(model, golden):
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in seeded_targets()]
    outputs = model.train()(**inputs(seeded_images()), labels=labels)
    outputs.loss.backward()
    assert outputs.loss.item() == pytest.approx(golden["loss"], rel=LOSSES)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert outputs.loss_dict[name].item() == pytest.approx(golden["losses"][name], rel=LOSSES)
    found = to_original({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    norms = {name: value.norm().item() for name, value in found.items()}
    assert norms.keys() == golden["gradient_norms"].keys()
    largest = max(golden["gradient_norms"].values())
    for name, norm in golden["gradient_norms"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-6 * largest), name
