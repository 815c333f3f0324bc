"""Padding to batches, and batches that the pipelines of transformers concatenate."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader
from transformers.pipelines.base import no_collate_fn, pad_collate_fn

from transformers_detr.model.padding_detr import DetrBatch, largest_size, real_pixels, stack_padded

SIZES = [(2, 5), (4, 3)]
IMAGES = [torch.full((3, *size), float(index + 1)) for index, size in enumerate(SIZES)]


def test_padding_goes_to_the_bottom_and_the_right():
    padded = largest_size(SIZES)
    assert padded == (4, 5)
    batch = stack_padded(IMAGES, padded, value=-7)
    mask = real_pixels(SIZES, padded)
    assert batch.shape == (2, 3, 4, 5)
    assert mask.dtype == torch.int64
    assert mask.tolist() == [[[1] * 5] * 2 + [[0] * 5] * 2, [[1, 1, 1, 0, 0]] * 4]
    for index, value in enumerate((1, 2)):
        assert torch.equal(batch[index, 0], torch.where(mask[index] == 1, value, -7).float())


def test_pad_size_holds_all_images_or_is_refused():
    assert largest_size(SIZES, (9, 8)) == (9, 8)
    with pytest.raises(ValueError, match=r"images\[1\] is 4×3 .* too large for pad_size 3×8"):
        largest_size(SIZES, (3, 8))


def items() -> list[DetrBatch]:
    """What a pipeline holds after preparing each image alone."""
    batches = []
    for image, size in zip(IMAGES, SIZES, strict=True):
        batch = DetrBatch({"pixel_values": image[None], "pixel_mask": real_pixels([size], size)})
        batch = batch.to(torch.float64)
        assert type(batch["pixel_values"]) is torch.Tensor
        batch["target_size"] = torch.tensor([size])
        batches.append(batch)
    return batches


def test_the_pipelines_collation_pads():
    batch = pad_collate_fn(None, object())(items())
    assert type(batch["pixel_values"]) is torch.Tensor
    assert torch.equal(batch["pixel_values"], stack_padded(IMAGES, (4, 5)).double())
    assert torch.equal(batch["pixel_mask"], real_pixels(SIZES, (4, 5)))
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
