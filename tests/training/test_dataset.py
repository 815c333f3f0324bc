from __future__ import annotations

import pytest
import torch

from transformers_detr import DetrImageProcessor
from transformers_detr.model.boxes_detr import boxes_to_pixels, cxcywh_to_xyxy
from transformers_detr.training.augmentation import PRESETS, augmentations
from transformers_detr.training.dataset import DetrCollator, Draw, TrainingDataset


@pytest.fixture
def training_images(scenes):
    def build(preset, edges=(64,), with_masks=False, longest=96):
        return TrainingDataset(scenes.split("train"), augmentations(preset, list(edges), longest), with_masks)

    return build


def test_without_augmentation_a_batch_is_the_image_processors(training_images, scenes):
    images = training_images("none")
    records = scenes.split("train")
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    wanted = processor(
        [record.load_image() for record in records], [record.coco_target() for record in records], return_tensors="pt"
    )
    collate = DetrCollator(processor.image_mean, processor.image_std)
    batch = collate([images[Draw(index, 64, 0)] for index in range(len(records))])
    assert torch.equal(batch["pixel_mask"], wanted["pixel_mask"])
    # torchvision and Pillow round resized pixels differently, by one step of 1/255
    torch.testing.assert_close(batch["pixel_values"], wanted["pixel_values"], rtol=0, atol=1.01 / 255 / 0.224)
    for own, target in zip(batch["labels"], wanted["labels"], strict=True):
        assert own.keys() == target.keys()
        assert torch.equal(own["class_labels"], target["class_labels"])
        assert torch.equal(own["size"], target["size"])
        torch.testing.assert_close(own["boxes"], target["boxes"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_draw_gives_the_same_sample_whatever_was_drawn_before(training_images, preset):
    images = training_images(preset, (48, 64))
    first = images[Draw(1, 64, 5)]
    state = torch.get_rng_state()
    torch.rand(3)
    images[Draw(2, 48, 6)]
    again = images[Draw(1, 64, 5)]
    assert torch.equal(first["pixels"], again["pixels"])
    assert torch.equal(first["labels"]["boxes"], again["labels"]["boxes"])
    torch.set_rng_state(state)
    images[Draw(0, 64, 7)]
    assert torch.equal(torch.get_rng_state(), state), "augmenting must not draw from the training's own randomness"


@pytest.mark.parametrize("preset", PRESETS)
def test_boxes_stay_on_their_objects(training_images, preset):
    """Masks go through other code than boxes: both must agree on where an object is, to a few pixels of 200.

    A crop may leave a box larger than what is left of its object, never smaller.
    """
    images = training_images(preset, (200,), with_masks=True, longest=300)
    crops = preset in ("paper", "small-data")
    checked = 0
    for index in range(len(images)):
        labels = images[Draw(index, 200, index)]["labels"]
        height, width = labels["size"].tolist()
        boxes = boxes_to_pixels(cxcywh_to_xyxy(labels["boxes"]), labels["size"])
        for box, mask in zip(boxes, labels["masks"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            start = torch.tensor([columns.min(), rows.min()])
            end = torch.tensor([columns.max() + 1, rows.max() + 1])
            assert (box[:2] <= start + 3).all()
            assert (box[2:] >= end - 3).all()
            assert crops or (((box[:2] - start).abs() <= 3).all() and ((box[2:] - end).abs() <= 3).all())
            checked += 1
        assert (boxes[:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
    assert checked > 10


def test_crops_leave_out_objects_that_are_gone(training_images, scenes):
    images = training_images("small-data", (96,), with_masks=True)
    fewer = 0
    for seed in range(5):
        for index, record in enumerate(scenes.split("train")):
            labels = images[Draw(index, 96, seed)]["labels"]
            count = len(labels["boxes"])
            assert count == len(labels["class_labels"]) == len(labels["area"]) == len(labels["masks"])
            assert (labels["boxes"] >= 0).all()
            assert (labels["boxes"] <= 1).all()
            fewer += count < sum(not item.iscrowd for item in record.objects)
    assert fewer


def test_the_paper_preset_never_exceeds_the_longest_edge(training_images):
    images = training_images("paper", (48, 64))
    for seed in range(30):
        height, width = images[Draw(seed % 10, 64, seed)]["pixels"].shape[1:]
        assert min(height, width) == 64
        assert max(height, width) <= 96 + 1
