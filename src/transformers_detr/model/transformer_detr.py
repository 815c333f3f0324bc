"""The transformer: attention, feed-forward, encoder, decoder.

Position embeddings are added to queries and keys of every attention, never to values. Layers take plain
numbers, except that attention also keeps the config, where the framework sets the implementation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cpu_kernels_detr import run_linear
from .initialization_detr import torch_default_bias, xavier


class Attended(NamedTuple):
    """Result of an encoder or decoder.

    Attributes:
        last_hidden_state: `(B, tokens, D)`.
        hidden_states: The input, then each layer's output, or None. A decoder's last one is normed.
        attentions: Self-attention maps of each layer, `(B, heads, tokens, tokens)`, or None.
        cross_attentions: Attention maps over the memory, `(B, heads, Q, S)`, or None.
        intermediate: Each decoder layer's output, normed for the heads, `(L, B, Q, D)`, or None.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    intermediate: Tensor | None = None


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Softmax attention spelled out, with the attention maps as second result.

    Args:
        module: The attention layer; tells whether dropout is on.
        query: `(B, heads, T, D / heads)`.
        key: `(B, heads, S, D / heads)`.
        value: `(B, heads, S, D / heads)`.
        attention_mask: True where a key may be attended to, `(B, 1, 1, S)`; or numbers to add; or None.
        scaling: Factor of the products.
        dropout: Probability of dropping a weight.
        **kwargs: Ignored; other implementations take more.

    Returns:
        Result `(B, T, heads, D / heads)` and maps `(B, heads, T, S)`, the maps before dropout.
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:  # as numbers to add, half the lowest so that no sum is infinite
            lowest = torch.finfo(scores.dtype).min / 2
            attention_mask = torch.zeros_like(attention_mask, dtype=scores.dtype).masked_fill(~attention_mask, lowest)
        scores = scores + attention_mask
    maps = scores.softmax(-1)
    result = nn.functional.dropout(maps, dropout, module.training) @ value
    return result.transpose(1, 2), maps


class DetrAttention(nn.Module):
    """Multi-head attention; queries, keys and values are given by the caller.

    Args:
        width: Width `D`.
        num_heads: Heads; they divide `D`.
        dropout: Dropout on attention weights.
        config: Read at each call for the attention implementation, by this class and by the attention
            functions of transformers, which look for it on the layer.
    """

    is_causal = False

    def __init__(self, width: int, num_heads: int, dropout: float, config: PreTrainedConfig):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = dropout
        self.config = config
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def initialize(self) -> None:
        """Xavier uniform; the original holds queries, keys and values in one matrix, which counts as one."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            xavier(projection, gain=0.5**0.5)
        xavier(self.out_proj)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: `(B, T, D)`.
            key: `(B, S, D)`.
            value: `(B, S, D)`.
            attention_mask: A mask of the form that the implementation takes; None attends everywhere.
            output_attentions: Whether to return the maps. Only the eager implementation can, so this call
                then uses it, whichever one is set.

        Returns:
            Result `(B, T, D)`; maps `(B, heads, T, S)` or None.
        """
        name = "eager" if output_attentions else self.config._attn_implementation
        attend = eager_attention if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        result, maps = attend(
            self,
            self._split(self._project(self.q_proj, query)),
            self._split(self._project(self.k_proj, key)),
            self._split(self._project(self.v_proj, value)),
            attention_mask,
            scaling=self.scaling,
            dropout=self.dropout if self.training else 0.0,
            is_causal=False,
        )
        return self._project(self.out_proj, result.flatten(2)), maps if output_attentions else None

    def _project(self, layer: nn.Module, tokens: Tensor) -> Tensor:
        return run_linear(layer, tokens, self.config.fast_paths)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, heads, T, D / heads)


class DetrEncoderLayer(GradientCheckpointingLayer):
    """Self-attention over the image's tokens, then feed-forward; a norm in front of each or after its residual sum.

    Args:
        width: Width `D`.
        num_heads: Attention heads.
        ffn_dim: Width of the feed-forward part.
        dropout: Dropout on residual branches.
        attention_dropout: Dropout on attention weights.
        activation_dropout: Dropout behind the activation.
        activation: Name of the activation.
        norm_first: Whether norms come first (pre-norm) instead of last (post-norm).
        config: See `DetrAttention`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        activation: str,
        norm_first: bool,
        config: PreTrainedConfig,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.self_attn = DetrAttention(width, num_heads, attention_dropout, config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation_fn = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)

    def initialize(self) -> None:
        """Xavier uniform weights; biases as torch does."""
        for linear in (self.fc1, self.fc2):
            init.xavier_uniform_(linear.weight)
            torch_default_bias(linear)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens and positions `(B, S, D)` in; tokens `(B, S, D)` and maps `(B, heads, S, S)` or None out."""
        tokens, maps = self._attend_to_itself(tokens, positions, attention_mask, output_attentions)
        return self._feed_forward(tokens), maps

    def _attend_to_itself(
        self, tokens: Tensor, positions: Tensor, attention_mask: Tensor | None, output_attentions: bool
    ) -> tuple[Tensor, Tensor | None]:
        source = self._before(self.self_attn_layer_norm, tokens)
        located = source + positions
        attended, maps = self.self_attn(located, located, source, attention_mask, output_attentions)
        return self._after(self.self_attn_layer_norm, tokens + self.dropout(attended)), maps

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        allowed = self.self_attn.config.fast_paths
        inner = run_linear(self.fc1, self._before(self.final_layer_norm, tokens), allowed)
        result = run_linear(self.fc2, self.activation_dropout(self.activation_fn(inner)), allowed)
        return self._after(self.final_layer_norm, tokens + self.dropout(result))

    def _before(self, norm: nn.Module, tokens: Tensor) -> Tensor:
        """Input of a sublayer."""
        return norm(tokens) if self.norm_first else tokens

    def _after(self, norm: nn.Module, tokens: Tensor) -> Tensor:
        """Result of a sublayer's residual sum."""
        return tokens if self.norm_first else norm(tokens)


class DetrDecoderLayer(DetrEncoderLayer):
    """Self-attention among the queries, attention over the memory, feed-forward; norms as in the encoder layer.

    Args:
        width: Width `D`.
        num_heads: Attention heads.
        ffn_dim: Width of the feed-forward part.
        dropout: Dropout on residual branches.
        attention_dropout: Dropout on attention weights.
        activation_dropout: Dropout behind the activation.
        activation: Name of the activation.
        norm_first: Whether norms come first (pre-norm) instead of last (post-norm).
        config: See `DetrAttention`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        ffn_dim: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        activation: str,
        norm_first: bool,
        config: PreTrainedConfig,
    ):
        common = (dropout, attention_dropout, activation_dropout, activation, norm_first, config)
        super().__init__(width, num_heads, ffn_dim, *common)
        self.encoder_attn = DetrAttention(width, num_heads, attention_dropout, config)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)

    def forward(  # type: ignore[override]
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        located_memory: Tensor,
        query_mask: Tensor | None,
        memory_mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Refine the queries.

        Args:
            queries: `(B, Q, D)`.
            query_positions: The object queries' own embeddings, `(B, Q, D)` or `(1, Q, D)`.
            memory: Encoded tokens, `(B, S, D)`.
            located_memory: Encoded tokens with their positions added; the same for every layer.
            query_mask: Which queries take part, in the form of the attention implementation.
            memory_mask: Which tokens are real, in the form of the attention implementation.
            output_attentions: Whether to return the maps.

        Returns:
            Queries `(B, Q, D)`, their maps `(B, heads, Q, Q)` and the memory's `(B, heads, Q, S)`, or None.
        """
        queries, self_maps = self._attend_to_itself(queries, query_positions, query_mask, output_attentions)
        located = self._before(self.encoder_attn_layer_norm, queries) + query_positions
        attended, cross_maps = self.encoder_attn(located, located_memory, memory, memory_mask, output_attentions)
        queries = self._after(self.encoder_attn_layer_norm, queries + self.dropout(attended))
        return self._feed_forward(queries), self_maps, cross_maps


class DetrEncoder(nn.Module):
    """A stack of encoder layers, with a norm behind it if its layers are pre-norm.

    Args:
        layers: The layers, first to last.
        layerdrop: Probability of skipping a layer in training.
        final_norm: Width `D` of the norm; None for no norm.
    """

    def __init__(self, layers: list[DetrEncoderLayer], layerdrop: float, final_norm: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layerdrop = layerdrop
        self.layernorm = None if final_norm is None else nn.LayerNorm(final_norm)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Attended:
        """Encode tokens `(B, S, D)` at positions `(B, S, D)` or `(1, S, D)`."""
        states = [tokens]
        maps = []
        for layer in self.layers:
            if _skipped(self):
                continue
            tokens, layer_maps = layer(tokens, positions, attention_mask, output_attentions)
            states.append(tokens)
            maps.append(layer_maps)
        return Attended(
            last_hidden_state=tokens if self.layernorm is None else self.layernorm(tokens),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(maps) if output_attentions else None,
        )


class DetrDecoder(nn.Module):
    """A stack of decoder layers and the norm in front of the heads.

    Each layer's output is normed for the heads only; the next layer receives it without the norm, so asking for
    intermediate states never changes the predictions (stock transformers feeds the normed output on).

    Args:
        layers: The layers, first to last.
        layerdrop: Probability of skipping a layer in training.
        width: Width `D`.
    """

    def __init__(self, layers: list[DetrDecoderLayer], layerdrop: float, width: int):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.layerdrop = layerdrop
        self.layernorm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        query_mask: Tensor | None,
        memory_mask: Tensor | None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        output_intermediate: bool = False,
    ) -> Attended:
        """Decode queries `(B, Q, D)` against memory `(B, S, D)`; see `DetrDecoderLayer.forward`."""
        located_memory = memory + memory_positions
        states = [queries]
        self_maps, cross_maps, normed = [], [], []
        for layer in self.layers:
            if _skipped(self):
                continue
            queries, layer_self, layer_cross = layer(
                queries, query_positions, memory, located_memory, query_mask, memory_mask, output_attentions
            )
            states.append(queries)
            self_maps.append(layer_self)
            cross_maps.append(layer_cross)
            if output_intermediate:
                normed.append(self.layernorm(queries))
        last = normed[-1] if normed else self.layernorm(queries)
        return Attended(
            last_hidden_state=last,
            hidden_states=(*states[:-1], last) if output_hidden_states else None,
            attentions=tuple(self_maps) if output_attentions else None,
            cross_attentions=tuple(cross_maps) if output_attentions else None,
            intermediate=torch.stack(normed) if normed else None,
        )


def _skipped(stack: DetrEncoder | DetrDecoder) -> bool:
    return stack.training and stack.layerdrop > 0 and bool(torch.rand(()) < stack.layerdrop)
