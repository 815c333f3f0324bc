"""Position embeddings: which cell of the feature map a token comes from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init


def sine_position_embedding(
    mask: Tensor | None,
    shape: tuple[int, int, int],
    width: int,
    device: torch.device,
    temperature: float = 10000.0,
) -> Tensor:
    """Sine and cosine of each cell's row and column, normalized by the size of the image's own area.

    Always computed in float32, as in the original, whatever the model's dtype.

    Args:
        mask: Real cells are True, `(B, h, w)`. None if no cell is padding.
        shape: `(B, h, w)`.
        width: Width `D` of the embedding; the first half encodes the row, the second half the column.
        device: Where to compute it when there is no mask.
        temperature: Ratio of the longest to the shortest wavelength.

    Returns:
        Embedding of each cell, `(B, D, h, w)`, or `(1, D, h, w)` without a mask.

    Source:
        "Attention is all you need", section 3.5, carried over to two dimensions as in DETR, appendix A.4.
    """
    if mask is None:
        rows = torch.arange(1, shape[1] + 1, device=device, dtype=torch.float32)[None, :, None].expand(1, *shape[1:])
        columns = torch.arange(1, shape[2] + 1, device=device, dtype=torch.float32)[None, None, :].expand(1, *shape[1:])
    else:
        rows = mask.cumsum(1, dtype=torch.float32)
        columns = mask.cumsum(2, dtype=torch.float32)
    rows = rows / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
    columns = columns / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)

    half = width // 2
    channel = torch.arange(half, device=rows.device, dtype=torch.float32)
    wavelength = temperature ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
    embedding = torch.cat([_interleave(rows, wavelength), _interleave(columns, wavelength)], dim=3)  # (B, h, w, D)
    return embedding.permute(0, 3, 1, 2)


def _interleave(coordinates: Tensor, wavelength: Tensor) -> Tensor:
    angles = coordinates[..., None] / wavelength  # (B, h, w, D / 2)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=4).flatten(3)


class DetrSinePositionEmbedding(nn.Module):
    """`sine_position_embedding` as a module without weights.

    Args:
        width: Width `D` of the embedding.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, mask: Tensor | None, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """See `sine_position_embedding`."""
        return sine_position_embedding(mask, shape, self.width, device)


class DetrLearnedPositionEmbedding(nn.Module):
    """A learned vector for each row and each column, up to 50 of either.

    Args:
        width: Width `D` of the embedding; the first half encodes the column, the second half the row.
    """

    num_positions = 50

    def __init__(self, width: int):
        super().__init__()
        self.row_embeddings = nn.Embedding(self.num_positions, width // 2)
        self.column_embeddings = nn.Embedding(self.num_positions, width // 2)

    def initialize(self) -> None:
        """Uniform in [0, 1)."""
        init.uniform_(self.row_embeddings.weight)
        init.uniform_(self.column_embeddings.weight)

    def forward(self, mask: Tensor | None, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Embedding of each cell, `(1, D, h, w)`; the same for every image, padded or not.

        Raises:
            ValueError: The feature map has more than 50 rows or columns.
        """
        _, height, width = shape
        if max(height, width) > self.num_positions:
            raise ValueError(
                f"learned position embeddings reach {self.num_positions} x {self.num_positions} cells, "
                f"but the feature map has {height} x {width}; use smaller images or sine embeddings"
            )
        rows = self.row_embeddings(torch.arange(height, device=device))[:, None].expand(-1, width, -1)
        columns = self.column_embeddings(torch.arange(width, device=device))[None].expand(height, -1, -1)
        return torch.cat([columns, rows], dim=-1).permute(2, 0, 1)[None]
