from __future__ import annotations

import numpy as np
import pytest

from transformers_detr.training.sampler import AspectRatioBatchSampler

SHAPES = np.random.default_rng(0).uniform(0.4, 2.5, 103)


def images(batches):
    return [draw.image for batch in batches for draw in batch]


def test_an_epoch_holds_each_image_once():
    batches = AspectRatioBatchSampler(SHAPES, 8, [32], seed=0)
    assert sorted(images(batches)) == list(range(103))
    assert len(list(batches)) == len(batches)


def test_the_draws_depend_on_seed_and_epoch_alone():
    first, same, other = (AspectRatioBatchSampler(SHAPES, 8, [32, 48], seed) for seed in (0, 0, 1))
    epoch_0 = list(first)
    assert list(first) == epoch_0 == list(same)
    assert list(other) != epoch_0
    first.set_epoch(1)
    assert list(first) != epoch_0
    first.set_epoch(0)
    assert list(first) == epoch_0


def test_upright_and_lying_images_never_share_a_batch():
    for batch in AspectRatioBatchSampler(SHAPES, 8, [32], seed=0):
        assert len({SHAPES[draw.image] > 1 for draw in batch}) == 1


def test_images_of_a_batch_have_one_scale_and_similar_shapes():
    batches = list(AspectRatioBatchSampler(SHAPES, 8, [32, 48], seed=0))
    assert all(len({draw.edge for draw in batch}) == 1 for batch in batches)
    assert {batch[0].edge for batch in batches} == {32, 48}
    spread = np.mean([np.ptp(SHAPES[[draw.image for draw in batch]]) for batch in batches])
    assert spread < 0.3 < np.ptp(SHAPES) / 2


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_have_equally_many_batches_and_no_image_is_lost(world):
    shares = [list(AspectRatioBatchSampler(SHAPES, 8, [32], 0, rank, world)) for rank in range(world)]
    assert {len(share) for share in shares} == {len(AspectRatioBatchSampler(SHAPES, 8, [32], 0, 0, world))}
    together = [image for share in shares for image in images(share)]
    assert set(together) == set(range(103))
    assert len(together) < 103 + 8 * world


def test_fewer_batches_than_processes():
    shares = [list(AspectRatioBatchSampler([1.0], 8, [32], 0, rank, 4)) for rank in range(4)]
    assert [images(share) for share in shares] == [[0]] * 4
