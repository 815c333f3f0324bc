"""Initialization that makes each query attend around its own anchor point.

Plain DETR starts with attention that is alike for all queries and all places, and spends most of its long training
on making it local. This initialization starts there: positions of queries and of cells have the same width, and the
product of two sine embeddings falls off with their distance. Only initial values change; model, graph and checkpoint
are plain DETR's. The idea follows Wang et al., Anchor DETR, 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from transformers_detr.model.modeling_detr import DetrForObjectDetection

QUIET = 0.1
"""Initial scale of the memory's channels that share the key's dimensions with positions, and of self-attention."""

REACH = 0.5
"""Standard deviation of the attention around an anchor, in distances between anchors."""


@torch.no_grad()
def start_anchored(model: DetrForObjectDetection) -> None:
    """Initialize a fresh model with anchors, in place.

    Queries get the sine embeddings of a grid of points. Cross-attention compares positions in the lowest
    frequencies of rows and columns, as many as fit into a head; the result is a bell around the query's point.
    Its values pass through an identity. Self-attention starts small, because it can only disturb this at first.

    Args:
        model: A model with fresh weights; trained weights would be lost.

    Raises:
        ValueError: The model has learned positions, or heads too narrow to hold a row and a column.
    """
    config = model.config
    head_dim = config.d_model // config.decoder_attention_heads
    if config.position_embedding_type != "sine" or head_dim % 4:
        raise ValueError(
            "anchored_start needs sine positions and decoder heads whose width is a multiple of 4, got "
            f"{config.position_embedding_type} positions and a width of {head_dim}"
        )
    anchors, pitch = grid_of_anchors(config.num_queries)
    core: Any = model.model
    core.query_position_embeddings.weight.copy_(embed_places(anchors, config))
    half = head_dim // 2
    compared = torch.cat([torch.arange(half), config.d_model // 2 + torch.arange(half)])
    heads = torch.arange(config.d_model).view(-1, head_dim)
    comparison = torch.zeros(config.d_model, config.d_model)
    comparison[heads, compared] = _sharpness(pitch, head_dim, config.d_model) ** 0.5
    norm = core.encoder.layernorm  # of pre-norm layers
    (core.encoder.layers[-1].final_layer_norm if norm is None else norm).weight[compared] = QUIET
    for layer in core.decoder.layers:
        attention = layer.encoder_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.copy_(comparison)
        for projection in (attention.v_proj, attention.out_proj):
            projection.weight.copy_(torch.eye(config.d_model))
        layer.self_attn.out_proj.weight.mul_(QUIET)


def grid_of_anchors(count: int) -> tuple[Tensor, float]:
    """Return points spread evenly over the image, `(count, 2)` as (row, column) in [0, 1], and their distance."""
    rows = round(count**0.5)
    lengths = [count // rows + (row < count % rows) for row in range(rows)]
    places = [
        ((row + 0.5) / rows, (column + 0.5) / length) for row, length in enumerate(lengths) for column in range(length)
    ]
    return torch.tensor(places), count**-0.5


def embed_places(places: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return sine embeddings `(N, D)` of points `(N, 2)`, as `sine_position_embedding` has them for cells there."""
    return torch.cat([_embed(places[:, axis], config.d_model // 2) for axis in (0, 1)], dim=1)


def _frequencies(half: int) -> Tensor:
    return 10000.0 ** (-torch.arange(0, half, 2) / half)


def _embed(along: Tensor, half: int) -> Tensor:
    angles = 2 * math.pi * along[:, None] * _frequencies(half)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _sharpness(pitch: float, head_dim: int, width: int) -> float:
    """Return the factor of the product of two embeddings that gives attention the wanted reach.

    Near zero the product of two embeddings falls off by half the sum of the squared frequencies times the
    squared distance, which the attention divides by the root of the head's width.
    """
    steepness = _frequencies(width // 2)[: head_dim // 4].square().sum().item()
    reach = 2 * math.pi * pitch * REACH
    return math.sqrt(head_dim) / (steepness * reach**2)
