"""Initial values with which each query begins by reading the memory around a place of its own.

Plain DETR begins with attention that is alike for all queries and all places, and takes most of its long training to
make it local. Nothing in the model forbids to begin there: positions of queries and of cells have the same
width, and the product of two sine embeddings falls off with their distance. Only initial values change; model,
graph and checkpoint are plain DETR's. Fixed places for queries are in the spirit of
Wang et al., Anchor DETR, 2022.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from transformers_detr.model.modeling_detr import DetrForObjectDetection

QUIET = 0.1
"""Initial size of the memory's channels that share the key's dimensions with positions, and of self-attention."""

REACH = 0.5
"""Standard deviation of the attention around an anchor, in distances between anchors."""


@torch.no_grad()
def start_anchored(model: DetrForObjectDetection) -> None:
    """Give a fresh model anchored initial values, in place.

    Queries get the sine embeddings of a grid of places. Cross-attention compares positions in the lowest
    frequencies of rows and columns, as many as a head has room for, so that it is a bell around the query's
    place, and passes on what it finds as it is. Self-attention, which can only disturb that at first, begins
    quietly.

    Args:
        model: A model with fresh weights; what it learned before would be lost.

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
    core.encoder.layers[-1].final_layer_norm.weight[compared] = QUIET
    for layer in core.decoder.layers:
        attention = layer.encoder_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.copy_(comparison)
        for projection in (attention.v_proj, attention.out_proj):
            projection.weight.copy_(torch.eye(config.d_model))
        layer.self_attn.out_proj.weight.mul_(QUIET)


def grid_of_anchors(count: int) -> tuple[Tensor, float]:
    """Places spread evenly over the image, in rows: `(count, 2)` as (row, column) in [0, 1], and their distance."""
    rows = round(count**0.5)
    lengths = [count // rows + (row < count % rows) for row in range(rows)]
    places = [
        ((row + 0.5) / rows, (column + 0.5) / length) for row, length in enumerate(lengths) for column in range(length)
    ]
    return torch.tensor(places), count**-0.5


def embed_places(places: Tensor, config: PreTrainedConfig) -> Tensor:
    """Sine embeddings `(N, D)` of places `(N, 2)`, as `sine_position_embedding` gives them to cells that lie there."""
    return torch.cat([_embed(places[:, axis], config.d_model // 2) for axis in (0, 1)], dim=1)


def _frequencies(half: int) -> Tensor:
    return 10000.0 ** (-torch.arange(0, half, 2) / half)


def _embed(along: Tensor, half: int) -> Tensor:
    angles = 2 * math.pi * along[:, None] * _frequencies(half)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _sharpness(pitch: float, head_dim: int, width: int) -> float:
    """Factor of the product of two embeddings that makes attention a bell of the wanted reach.

    Near zero the product of two embeddings falls off by half the sum of the squared frequencies times the
    squared distance, which the attention divides by the root of the head's width.
    """
    steepness = _frequencies(width // 2)[: head_dim // 4].square().sum().item()
    reach = 2 * math.pi * pitch * REACH
    return math.sqrt(head_dim) / (steepness * reach**2)
