"""Weights and inputs that are the same on every machine, for the golden numbers in this repository."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

SIZES = ((96, 128), (128, 80))
"""(height, width) of the images."""

CLASSES, QUERIES, WIDTH, HEADS, LAYERS, FFN = 5, 10, 32, 4, 2, 64


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return uniform numbers in [-1, 1) that depend on the name alone."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).random(shape) * 2 - 1


def seeded_state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return weights by the original's names: scaled by their fan-in, norms near one, variances positive."""
    weights = {}
    for name, shape in shapes.items():
        values = seeded(name, shape)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            values = 1 + values / 2
        elif len(shape) > 1:
            values = values * (3 / np.prod(shape[1:])) ** 0.5
        else:
            values = values / 10
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def seeded_images() -> list[Tensor]:
    """Return normalized images `(3, H, W)`."""
    return [torch.from_numpy(seeded(f"image {size}", (3, *size)).astype(np.float32) * 2) for size in SIZES]


def seeded_targets() -> list[dict[str, Tensor]]:
    """Return class ids `(N,)` and boxes `(N, 4)`, cxcywh relative to the image, for each image."""
    boxes = ([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.4, 0.5]], [[0.5, 0.5, 0.6, 0.8]])
    return [
        {"labels": torch.tensor(range(1, 1 + len(rows))), "boxes": torch.tensor(rows, dtype=torch.float32)}
        for rows in boxes
    ]
