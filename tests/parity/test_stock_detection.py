"""Stock transformers on the same weights, through the files that either writes."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config

from transformers_detr import DetrForObjectDetection

pytestmark = pytest.mark.current_stock

BACKBONES = {
    "resnet18": {},
    "resnet50": {"backbone": "resnet50"},
    "dc5": {"backbone": "resnet50", "dilation": True},
    "native": {"backbone_config": NATIVE_BACKBONE},
    "learned": {"position_embedding_type": "learned"},
}


@pytest.fixture(scope="module", params=BACKBONES)
def folders(request, tmp_path_factory):
    """A folder that we wrote, one that stock wrote from it, and what stock said of ours."""
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config(**BACKBONES[request.param])).eval()
    randomize_norms(model)
    ours, stocks = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("stock")
    model.save_pretrained(ours)
    stock, info = transformers.DetrForObjectDetection.from_pretrained(ours, output_loading_info=True)
    stock.eval().save_pretrained(stocks)
    return model, stock, info, stocks


@torch.no_grad()
def agree(left, right):
    batch = padded_batch([(96, 128), (50, 70)])
    one, other = left(*batch, output_attentions=True), right(*batch)
    assert (one.logits - other.logits).abs().max() < 1e-5
    assert (one.pred_boxes - other.pred_boxes).abs().max() < 1e-5
    assert (one.last_hidden_state - other.last_hidden_state).abs().max() < 1e-5
    # the random norms of a deep backbone magnify rounding before the projection, which the transformer norms away again
    assert (one.encoder_last_hidden_state - other.encoder_last_hidden_state).abs().max() < 1e-3
    assert one.logits.std() > 0.01


def test_ours_loads_in_stock(folders):
    model, stock, info, _ = folders
    assert not any(info.values()), info
    agree(model, stock)


def test_stocks_loads_in_ours(folders):
    _, stock, _, folder = folders
    model, info = DetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    agree(model.eval(), stock)


def test_outputs_have_stocks_fields():
    from dataclasses import fields

    from transformers.models.detr import modeling_detr as stock

    from transformers_detr.model import modeling_detr as ours

    for name in ("DetrModelOutput", "DetrObjectDetectionOutput"):
        expected = [field.name for field in fields(getattr(stock, name))]
        assert [field.name for field in fields(getattr(ours, name))] == expected


def test_stocks_configuration_of_transformers_5_loads(tmp_path):
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        backbone="resnet18",
        num_labels=3,
        d_model=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    stock = transformers.DetrForObjectDetection(config).eval()
    stock.save_pretrained(tmp_path)
    model, info = DetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    agree(model.eval(), stock)
