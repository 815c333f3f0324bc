"""Aspect-ratio batch sampler: one scale and similar aspect ratios per batch, which bounds its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from transformers_detr.training.dataset import Draw

POOL = 16
"""Number of batches whose images are sorted by aspect ratio together: more mean less padding and less randomness."""


class AspectRatioBatchSampler(Sampler[list[Draw]]):
    """Batch sampler of one process: draws a scale for each batch and groups images by aspect ratio.

    Portrait and landscape images never share a batch, so that no batch is larger than its shorter side times the
    maximum of the longer side. All draws depend on seed and epoch alone: an interrupted run resumes with exactly the
    batches of an uninterrupted one, with any number of loading processes.

    Args:
        aspect_ratios: Height / width of each image.
        batch_size: Images in a batch; the last ones of an epoch may be smaller.
        edges: Shorter sides to draw from.
        seed: Seed of all draws.
        rank: This process.
        world: Number of processes. All get the same number of batches; some images repeat where they do not divide.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float],
        batch_size: int,
        edges: Sequence[int],
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.aspect_ratios = np.asarray(aspect_ratios)
        self.batch_size = batch_size
        self.edges = list(edges)
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def __len__(self) -> int:
        landscape = int((self.aspect_ratios <= 1).sum())
        count = sum(-(-images // self.batch_size) for images in (landscape, len(self.aspect_ratios) - landscape))
        return -(-count // self.world)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        landscape = self.aspect_ratios <= 1
        batches = [*self._batches(np.flatnonzero(landscape), rng), *self._batches(np.flatnonzero(~landscape), rng)]
        rng.shuffle(batches)
        batches += islice(cycle(batches), len(self) * self.world - len(batches))
        for number, batch in enumerate(batches):
            edge = int(rng.choice(self.edges))
            seeds = rng.integers(0, 2**31, len(batch))
            if number % self.world == self.rank:
                yield [Draw(int(index), edge, int(seed)) for index, seed in zip(batch, seeds, strict=True)]

    def _batches(self, indices: NDArray[np.int64], rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Shuffle, sort pools by aspect ratio, cut into batches."""
        indices = rng.permutation(indices)
        size = POOL * self.batch_size
        pools = [indices[start : start + size] for start in range(0, len(indices), size)]
        ordered = [pool[np.argsort(self.aspect_ratios[pool], kind="stable")] for pool in pools]
        return [
            pool[start : start + self.batch_size] for pool in ordered for start in range(0, len(pool), self.batch_size)
        ]
