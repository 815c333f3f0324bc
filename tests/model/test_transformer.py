"""Attention and layers against torch's own, which the original is built from."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from transformers_detr.model.transformer_detr import DetrAttention, DetrDecoder, DetrDecoderLayer, DetrEncoderLayer

WIDTH, HEADS = 16, 4


def config(implementation="eager"):
    return SimpleNamespace(_attn_implementation=implementation, fast_paths=True)


def copy_attention(ours, torchs):
    torchs.in_proj_weight.data = torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]).detach()
    torchs.in_proj_bias.data = torch.cat([ours.q_proj.bias, ours.k_proj.bias, ours.v_proj.bias]).detach()
    torchs.out_proj.load_state_dict(ours.out_proj.state_dict())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_is_that_of_torch(implementation):
    torch.manual_seed(0)
    ours = DetrAttention(WIDTH, HEADS, 0.0, config(implementation)).eval()
    torchs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    copy_attention(ours, torchs)
    query, key, value = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH), torch.randn(2, 7, WIDTH)
    real = torch.ones(2, 7, dtype=torch.bool)
    real[1, 4:] = False
    expected, expected_maps = torchs(query, key, value, key_padding_mask=~real, average_attn_weights=False)
    result, none = ours(query, key, value, real[:, None, None])
    assert none is None
    assert torch.allclose(result, expected, atol=1e-6)
    result, maps = ours(query, key, value, real[:, None, None], output_attentions=True)
    assert torch.allclose(result, expected, atol=1e-6)
    assert torch.allclose(maps, expected_maps, atol=1e-6)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_is_that_of_torch(norm_first):
    torch.manual_seed(1)
    ours = DetrEncoderLayer(WIDTH, HEADS, 24, 0.0, 0.0, 0.0, "relu", norm_first, config()).eval()
    for norm in (ours.self_attn_layer_norm, ours.final_layer_norm):
        nn.init.normal_(norm.weight, 1)
    torchs = nn.TransformerEncoderLayer(WIDTH, HEADS, 24, dropout=0.0, batch_first=True, norm_first=norm_first).eval()
    copy_attention(ours.self_attn, torchs.self_attn)
    for mine, theirs in (
        ("fc1", "linear1"),
        ("fc2", "linear2"),
        ("self_attn_layer_norm", "norm1"),
        ("final_layer_norm", "norm2"),
    ):
        getattr(torchs, theirs).load_state_dict(getattr(ours, mine).state_dict())
    tokens = torch.randn(2, 7, WIDTH)
    result, _ = ours(tokens, torch.zeros(1, 7, WIDTH), None)
    assert torch.allclose(result, torchs(tokens), atol=1e-6)


def test_positions_go_to_queries_and_keys_but_not_to_values():
    torch.manual_seed(2)
    layer = DetrEncoderLayer(WIDTH, HEADS, 24, 0.0, 0.0, 0.0, "relu", False, config()).eval()
    seen = {}
    layer.self_attn.register_forward_pre_hook(
        lambda module, inputs: seen.update(zip(("query", "key", "value"), inputs, strict=False))
    )
    tokens, positions = torch.randn(2, 7, WIDTH), torch.randn(1, 7, WIDTH)
    layer(tokens, positions, None)
    assert torch.equal(seen["query"], tokens + positions)
    assert torch.equal(seen["key"], tokens + positions)
    assert torch.equal(seen["value"], tokens)


def test_intermediate_states_change_nothing_and_are_the_normed_layers():
    torch.manual_seed(3)
    layers = [DetrDecoderLayer(WIDTH, HEADS, 24, 0.0, 0.0, 0.0, "relu", False, config()) for _ in range(3)]
    decoder = DetrDecoder(layers, 0.0, WIDTH).eval()
    arguments = (torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH), torch.randn(1, 7, WIDTH))
    plain = decoder(*arguments, None, None)
    full = decoder(*arguments, None, None, output_hidden_states=True, output_intermediate=True)
    assert torch.equal(plain.last_hidden_state, full.last_hidden_state)
    assert full.intermediate.shape == (3, 2, 5, WIDTH)
    for layer in (0, 1):
        normed = decoder.layernorm(full.hidden_states[layer + 1])
        assert torch.equal(full.intermediate[layer], normed)
    assert torch.equal(full.intermediate[-1], full.last_hidden_state)


def test_layerdrop_skips_layers_in_training_only():
    torch.manual_seed(4)
    layers = [DetrDecoderLayer(WIDTH, HEADS, 24, 0.0, 0.0, 0.0, "relu", False, config()) for _ in range(2)]
    decoder = DetrDecoder(layers, 1.0, WIDTH)
    queries = torch.randn(1, 5, WIDTH)
    arguments = (queries, torch.zeros(1, 5, WIDTH), torch.randn(1, 7, WIDTH), torch.zeros(1, 7, WIDTH), None, None)
    assert torch.equal(decoder.train()(*arguments).last_hidden_state, decoder.layernorm(queries))
    assert not torch.equal(decoder.eval()(*arguments).last_hidden_state, decoder.layernorm(queries))
