"""Which images form a batch: one scale for all, similar shapes, and so a limit on its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from transformers_detr.training.dataset import Draw

POOL = 16
"""Batches' worth of images that are sorted by shape together: more mean less padding, and less chance."""


class ShapeBatches(Sampler[list[Draw]]):
    """Batches of one process: a scale is drawn for each, and images of similar shape share one.

    Upright and lying images never share a batch, so that no batch is larger than its shorter side times the
    limit of the longer side. All draws depend on the seed and the epoch alone: a run that was interrupted goes
    on with the very batches that it would have had, whatever the number of loading processes.

    Args:
        shapes: Height / width of each image.
        batch_size: Images in a batch; the last ones of an epoch may be smaller.
        edges: Shorter sides to draw from.
        seed: Seed of all draws.
        rank: This process.
        world: Number of processes. Each has equally many batches; some images come twice where they do not divide.
    """

    def __init__(
        self, shapes: Sequence[float], batch_size: int, edges: Sequence[int], seed: int, rank: int = 0, world: int = 1
    ):
        self.shapes = np.asarray(shapes)
        self.batch_size = batch_size
        self.edges = list(edges)
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def __len__(self) -> int:
        lying = int((self.shapes <= 1).sum())
        count = sum(-(-images // self.batch_size) for images in (lying, len(self.shapes) - lying))
        return -(-count // self.world)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        lying = self.shapes <= 1
        batches = [*self._batches(np.flatnonzero(lying), rng), *self._batches(np.flatnonzero(~lying), rng)]
        rng.shuffle(batches)
        batches += islice(cycle(batches), len(self) * self.world - len(batches))
        for number, batch in enumerate(batches):
            edge = int(rng.choice(self.edges))
            seeds = rng.integers(0, 2**31, len(batch))
            if number % self.world == self.rank:
                yield [Draw(int(index), edge, int(seed)) for index, seed in zip(batch, seeds, strict=True)]

    def _batches(self, indices: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Shuffle, sort pools by shape, cut into batches."""
        indices = rng.permutation(indices)
        size = POOL * self.batch_size
        pools = [indices[start : start + size] for start in range(0, len(indices), size)]
        ordered = [pool[np.argsort(self.shapes[pool], kind="stable")] for pool in pools]
        return [
            pool[start : start + self.batch_size] for pool in ordered for start in range(0, len(pool), self.batch_size)
        ]
