"""The table of names against the golden checkpoints' own lists of names, both ways."""

from __future__ import annotations

import pytest
import torch

from key_map import to_original, to_stored

VARIANTS = ["detr-tiny", "detr-r50", "detr-r50-dc5", "detr-r50-panoptic"]


def empty_weights(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape, _ in shapes}


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_order_survive_the_round_trip(variant, golden_json):
    original = empty_weights(golden_json(f"{variant}.shapes.json"))
    stored = to_stored(original)
    shuffled = {name: stored[name] for name in sorted(stored)}
    back = to_original(shuffled)
    assert list(back) == list(original)
    assert [tensor.shape for tensor in back.values()] == [tensor.shape for tensor in original.values()]


def test_values_survive_bit_for_bit(golden_state_dict):
    original = golden_state_dict("detr-tiny")
    back = to_original(to_stored(original))
    assert all(torch.equal(original[name], back[name]) for name in original)


@pytest.mark.parametrize(("segmentation", "positions"), [(False, "sine"), (False, "learned"), (True, "sine")])
def test_stored_names_are_those_of_stock_checkpoints(segmentation, positions, tmp_path):
    """Stock transformers writes the names of 2021 whatever its modules are called in memory."""
    from safetensors.torch import load_file
    from transformers import DetrConfig, DetrForObjectDetection, DetrForSegmentation

    config = DetrConfig(
        use_timm_backbone=True,
        backbone="resnet18",
        use_pretrained_backbone=False,
        backbone_config=None,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        position_embedding_type=positions,
    )
    model = (DetrForSegmentation if segmentation else DetrForObjectDetection)(config)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    again = to_stored(to_original(stored))
    ours = {name for name in stored if not name.endswith("num_batches_tracked")}
    assert set(again) == ours
    assert all(torch.equal(stored[name], again[name]) for name in ours)


def test_query_key_and_value_are_cut_in_this_order():
    joined = torch.arange(6.0).reshape(6, 1)
    stored = to_stored({"transformer.decoder.layers.11.multihead_attn.in_proj_weight": joined})
    assert {name: tensor.flatten().tolist() for name, tensor in stored.items()} == {
        "model.decoder.layers.11.encoder_attn.q_proj.weight": [0.0, 1.0],
        "model.decoder.layers.11.encoder_attn.k_proj.weight": [2.0, 3.0],
        "model.decoder.layers.11.encoder_attn.v_proj.weight": [4.0, 5.0],
    }


def test_layers_are_ordered_by_number_not_by_spelling():
    names = [f"model.encoder.layers.{i}.fc1.bias" for i in (10, 2, 1)]
    back = to_original({name: torch.zeros(1) for name in names})
    assert list(back) == [f"transformer.encoder.layers.{i}.linear1.bias" for i in (1, 2, 10)]


@pytest.mark.parametrize(
    "name",
    [
        "transformer.encoder.norms.weight",
        "backbone.0.body.fc.weight",
        "query_embed",
        "detr.mask_head.lay1.weight",
    ],
)
def test_unknown_original_names_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        to_stored({name: torch.zeros(3)})


def test_unknown_and_missing_stored_names_are_refused_by_name():
    with pytest.raises(ValueError, match=r"model\.encoder\.norm\.weight"):
        to_original({"model.encoder.norm.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"missing weights: .*v_proj\.bias"):
        to_original({f"model.encoder.layers.0.self_attn.{x}_proj.bias": torch.zeros(3) for x in "qk"})


def test_projection_that_cannot_be_cut_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"in_proj_bias of shape \(7,\)"):
        to_stored({"transformer.encoder.layers.0.self_attn.in_proj_bias": torch.zeros(7)})
