"""Tiny models for tests: random in every weight and buffer, so that nothing is hidden by zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transformers_detr import DetrConfig

NATIVE_BACKBONE = {
    "model_type": "resnet",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [16, 32, 64, 128],
    "embedding_size": 16,
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def tiny_config(kind: type[DetrConfig] = DetrConfig, **changes: Any) -> DetrConfig:
    """A small configuration of a class; keyword arguments replace its fields."""
    fields: dict[str, Any] = {
        "num_labels": 5,
        "num_queries": 10,
        "d_model": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    }
    if "backbone_config" not in changes:
        fields["backbone"] = "resnet18"
    return kind(**fields | changes)


@torch.no_grad()
def randomize_norms(model: nn.Module, seed: int = 0) -> None:
    """Give frozen batch norms statistics of their own (fresh residual branches end in zeros)."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_var", "weight")):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias")):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)


def padded_batch(sizes: list[tuple[int, int]], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise images of the given sizes, padded at the bottom and right, and their pixel mask."""
    generator = torch.Generator().manual_seed(seed)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    pixel_values = torch.zeros(len(sizes), 3, height, width)
    pixel_mask = torch.zeros(len(sizes), height, width, dtype=torch.int64)
    for index, (h, w) in enumerate(sizes):
        pixel_values[index, :, :h, :w] = torch.randn(3, h, w, generator=generator)
        pixel_mask[index, :h, :w] = 1
    return pixel_values, pixel_mask
