"""Position embeddings against their formula, cell by cell."""

from __future__ import annotations

import math

import pytest
import torch

from transformers_detr.model.position_embedding_detr import DetrLearnedPositionEmbedding, sine_position_embedding

CPU = torch.device("cpu")


def by_formula(row, column, rows, columns, width):
    """Embedding of one cell: (row, column) counted from 1 in an image of rows x columns real cells."""
    half = width // 2
    numbers = []
    for place, extent in ((row, rows), (column, columns)):
        angle = place / (extent + 1e-6) * 2 * math.pi
        for channel in range(half):
            wavelength = 10000 ** (2 * (channel // 2) / half)
            numbers.append((math.sin if channel % 2 == 0 else math.cos)(angle / wavelength))
    return torch.tensor(numbers)


def test_sine_embedding_of_a_padded_image():
    mask = torch.zeros(1, 5, 6, dtype=torch.bool)
    mask[0, :3, :4] = True
    embedding = sine_position_embedding(mask, (1, 5, 6), 16, CPU)
    assert embedding.shape == (1, 16, 5, 6)
    for row in range(3):
        for column in range(4):
            expected = by_formula(row + 1, column + 1, 3, 4, 16)
            assert torch.allclose(embedding[0, :, row, column], expected, atol=1e-5)


def test_without_a_mask_it_is_that_of_a_full_one():
    full = torch.ones(2, 5, 6, dtype=torch.bool)
    with_mask = sine_position_embedding(full, (2, 5, 6), 32, CPU)
    without = sine_position_embedding(None, (2, 5, 6), 32, CPU)
    assert without.shape[0] == 1
    assert torch.equal(with_mask, without.expand(2, -1, -1, -1))


def test_learned_embedding_looks_up_column_then_row():
    embedding = DetrLearnedPositionEmbedding(8)
    result = embedding(None, (2, 3, 4), CPU)
    assert result.shape == (1, 8, 3, 4)
    expected = torch.cat([embedding.column_embeddings.weight[3], embedding.row_embeddings.weight[2]])
    assert torch.equal(result[0, :, 2, 3], expected)


def test_learned_embedding_refuses_what_it_cannot_reach():
    with pytest.raises(ValueError, match="51 x 4"):
        DetrLearnedPositionEmbedding(8)(None, (1, 51, 4), CPU)
