"""Stock transformers on the same weights, through the files that either writes."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config

from transformers_detr import DetrForObjectDetection, TableTransformerForObjectDetection

pytestmark = pytest.mark.current_stock

BACKBONES = {
    "resnet18": {},
    "resnet50": {"backbone": "resnet50"},
    "dc5": {"backbone": "resnet50", "dilation": True},
    "native": {"backbone_config": NATIVE_BACKBONE},
    "learned": {"position_embedding_type": "learned"},
}


def seeded(kind, **changes):
    """A tiny model whose norms are not all alike, so that none could stand in another's place."""
    torch.manual_seed(0)
    model = kind(tiny_config(kind.config_class, **changes)).eval()
    randomize_norms(model)
    for name, parameter in model.named_parameters():
        if "layer_norm" in name or "layernorm" in name:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
    return model


@pytest.fixture(
    scope="module",
    params=[
        (kind, name) for kind in (DetrForObjectDetection, TableTransformerForObjectDetection) for name in BACKBONES
    ],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def folders(request, tmp_path_factory):
    """A folder that we wrote, one that stock wrote from it, and what stock said of ours."""
    kind, backbone = request.param
    model = seeded(kind, **BACKBONES[backbone])
    ours, stocks = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("stock")
    model.save_pretrained(ours)
    stock, info = getattr(transformers, kind.__name__).from_pretrained(ours, output_loading_info=True)
    stock.eval().save_pretrained(stocks)
    return model, stock, info, stocks


@torch.no_grad()
def agree(left, right):
    for sizes in ([(96, 128)], [(96, 128), (50, 70)]):
        batch = padded_batch(sizes)
        one = left(*batch, output_attentions=True, output_hidden_states=True)
        other = right(*batch, output_hidden_states=True)
        assert len(one.encoder_hidden_states) == len(other.encoder_hidden_states)
        assert (one.logits - other.logits).abs().max() < 1e-5
        assert (one.pred_boxes - other.pred_boxes).abs().max() < 1e-5
        assert (one.last_hidden_state - other.last_hidden_state).abs().max() < 1e-5
        # the random norms of a deep backbone magnify rounding before the projection; the transformer norms it away
        assert (one.encoder_last_hidden_state - other.encoder_last_hidden_state).abs().max() < 1e-3
        assert one.logits.std() > 0.01


def test_ours_loads_in_stock(folders):
    model, stock, info, _ = folders
    assert not any(info.values()), info
    agree(model, stock)


def test_stocks_loads_in_ours(folders):
    ours, stock, _, folder = folders
    model, info = type(ours).from_pretrained(folder, output_loading_info=True)
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
