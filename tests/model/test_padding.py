"""Padding to batches, and batches that the pipelines of transformers concatenate."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader
from transformers.pipelines.base import no_collate_fn, pad_collate_fn

from transformers_detr.model.padding_detr import DetrBatch, group_by_shape, pad_batch

SIZES = [(2, 5), (4, 3)]
IMAGES = [torch.full((3, *size), float(index + 1)) for index, size in enumerate(SIZES)]


def test_padding_goes_to_the_bottom_and_the_right():
    batch, mask = pad_batch(IMAGES, value=-7)
    assert batch.shape == (2, 3, 4, 5)
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[[1] * 5] * 2 + [[0] * 5] * 2, [[1, 1, 1, 0, 0]] * 4]
    for index, value in enumerate((1, 2)):
        assert torch.equal(batch[index, 0], torch.where(mask[index] == 1, value, -7).float())


def test_pad_size_holds_all_images_or_is_refused():
    batch, mask = pad_batch(IMAGES, (9, 8))
    assert batch.shape == (2, 3, 9, 8)
    assert mask.sum((1, 2)).tolist() == [10, 12]
    with pytest.raises(ValueError, match=r"images\[1\] is 4×3 .* too large for pad_size 3×8"):
        pad_batch(IMAGES, (3, 8))


def test_equal_sizes_need_no_mask():
    batch, mask = pad_batch(IMAGES[:1] * 2)
    assert torch.equal(batch, torch.stack(IMAGES[:1] * 2))
    assert mask is None
    assert pad_batch(IMAGES[:1], always_mask=True)[1].all()
    assert pad_batch(IMAGES[:1], (4, 5))[1].sum() == 10


def test_groups_by_ratio_are_consecutive_batches():
    """As the evaluation cuts a list sorted by width / height into batches."""
    sizes = [(30, 40), (60, 80), (20, 40), (40, 20), (30, 40)]
    shapes = dict(enumerate(sizes))
    assert group_by_shape(shapes, 2, float("inf"), by_ratio=True) == [[0, 3], [1, 4], [2]]
    assert group_by_shape(shapes, 2, 0.0, by_ratio=True) == [[0, 4], [1], [2], [3]]
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        group_by_shape(shapes, 0, 0.0)


def items() -> list[DetrBatch]:
    """What a pipeline holds after preparing each image alone."""
    batches = []
    for image, size in zip(IMAGES, SIZES, strict=True):
        batch = DetrBatch({"pixel_values": image[None], "pixel_mask": torch.ones(1, *size, dtype=torch.int64)})
        batch = batch.to(torch.float64)
        assert type(batch["pixel_values"]) is torch.Tensor
        batch["target_size"] = torch.tensor([size])
        batches.append(batch)
    return batches


def test_the_pipelines_collation_pads():
    batch = pad_collate_fn(None, object())(items())
    assert type(batch["pixel_values"]) is torch.Tensor
    assert torch.equal(batch["pixel_values"], pad_batch(IMAGES)[0].double())
    assert torch.equal(batch["pixel_mask"], pad_batch(IMAGES)[1].double())
    assert batch["target_size"].tolist() == [list(size) for size in SIZES]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_single_image_stays_what_it_is(workers):
    loader = DataLoader(items(), batch_size=1, collate_fn=no_collate_fn, num_workers=workers)
    for batch, image in zip(loader, IMAGES, strict=True):
        for operation in (lambda tensor: tensor.to("cpu"), lambda tensor: tensor + 0, lambda tensor: tensor[:]):
            result = operation(batch["pixel_values"])
            assert type(result) is torch.Tensor
            assert result.ndim == 4
            assert torch.equal(result[0], image.double())
