"""Stock transformers on the same weights, through the files that either writes; with masks."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
import transformers
from tiny_detr import NATIVE_BACKBONE, padded_batch
from tiny_segmenter import tiny_segmenter
from transformers.models.detr import modeling_detr as stock_modeling

from transformers_detr import DetrForSegmentation
from transformers_detr.model import modeling_segmentation_detr

pytestmark = pytest.mark.current_stock

STAGES = NATIVE_BACKBONE["out_features"]
VARIANTS = {
    "resnet18": {"backbone": "resnet18"},
    "dc5": {"backbone": "resnet26", "dilation": True},
    "native": {},
    "three maps": {"backbone_config": {**NATIVE_BACKBONE, "out_features": STAGES[1:]}},
    "five maps": {"backbone_config": {**NATIVE_BACKBONE, "out_features": ["stem", *STAGES]}},
    "gelu": {"activation_function": "gelu", "d_model": 64},
}


@pytest.fixture(scope="module", params=VARIANTS)
def folders(request, tmp_path_factory):
    """A model of ours, stock's from the folder we wrote, what stock said, and the folder that stock wrote."""
    model = tiny_segmenter(**VARIANTS[request.param])
    ours, stocks = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("stock")
    model.save_pretrained(ours)
    stock, info = transformers.DetrForSegmentation.from_pretrained(ours, output_loading_info=True)
    stock.eval().save_pretrained(stocks)
    return model, stock, info, stocks


@torch.no_grad()
def agree(left, right):
    for sizes in ([(97, 131)], [(96, 128), (50, 70)]):
        pixels, mask = padded_batch(sizes)
        one, other = left(pixels, mask), right(pixels, mask)
        assert (one.logits - other.logits).abs().max() < 1e-5
        assert (one.pred_boxes - other.pred_boxes).abs().max() < 1e-5
        assert one.pred_masks.shape == other.pred_masks.shape
        assert (one.pred_masks - other.pred_masks).abs().max() < 1e-4
        assert one.pred_masks.std() > 0.1
        assert one.pred_masks.std(1).max() > 1e-2


def test_ours_loads_in_stock(folders):
    model, stock, info, _ = folders
    assert not any(info.values()), info
    agree(model, stock)


def test_stocks_loads_in_ours(folders):
    _, stock, _, folder = folders
    model, info = DetrForSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    agree(model.eval(), stock)


def test_output_has_stocks_fields():
    expected = [field.name for field in fields(stock_modeling.DetrSegmentationOutput)]
    assert [field.name for field in fields(modeling_segmentation_detr.DetrSegmentationOutput)] == expected


@torch.no_grad()
def test_losses_are_stocks(folders):
    """Where boxes of stock are right: in a batch of equal sizes."""
    model, stock, _, _ = folders
    pixels, _ = padded_batch([(96, 128), (96, 128)])
    generator = torch.Generator().manual_seed(0)
    labels = [
        {
            "class_labels": torch.randint(5, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.4 + 0.2,
            "masks": torch.rand(count, 96, 128, generator=generator) > 0.5,
        }
        for count in (3, 1)
    ]
    ours, theirs = model(pixels, labels=labels), stock(pixels, labels=labels)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"):
        assert ours.loss_dict[name].item() == pytest.approx(theirs.loss_dict[name].item(), rel=1e-4), name
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-4)
