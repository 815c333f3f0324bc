"""What is accepted as labels, and how the rest is refused."""

import pytest
import torch
from transformers import BatchFeature

from model.loss_cases import random_labels
from transformers_detr.model.targets_detr import read_targets

SHAPE = {"batch_size": 2, "num_queries": 10, "num_classes": 7}


def labels_with(**changes):
    """Labels of two images, with 2 and 3 objects; the second has the id 42 and the changed values."""
    labels = random_labels([2, 3])
    labels[1] |= {"image_id": torch.tensor([42]), **changes}
    return labels


def boxes_with(row, box):
    boxes = labels_with()[1]["boxes"].clone()
    boxes[row] = torch.tensor(box)
    return boxes


def test_objects_stand_one_after_another():
    labels = labels_with()
    targets = read_targets(labels, **SHAPE)
    assert targets.counts == (2, 3)
    assert targets.image.tolist() == [0, 0, 1, 1, 1]
    torch.testing.assert_close(targets.class_labels, torch.cat([label["class_labels"] for label in labels]))
    torch.testing.assert_close(targets.boxes_cxcywh, torch.cat([label["boxes"] for label in labels]))
    assert targets.masks is None


def test_masks_are_padded_to_the_batch():
    labels = random_labels([1, 2])
    labels[0]["masks"] = torch.ones(1, 3, 5, dtype=torch.uint8)
    labels[1]["masks"] = torch.ones(2, 4, 2)
    masks = read_targets(labels, **SHAPE, mask_size=(4, 6)).masks
    assert masks.shape == (3, 4, 6)
    assert masks.dtype == torch.bool
    assert masks.sum((1, 2)).tolist() == [15, 8, 8]
    assert masks[0, :3, :5].all()


@pytest.mark.parametrize("empty", [torch.zeros(0), torch.zeros(0, dtype=torch.int64)])
def test_images_without_objects(empty):
    label = {"class_labels": empty, "boxes": torch.tensor([]), "masks": torch.tensor([])}
    targets = read_targets([BatchFeature(label)] * 2, **SHAPE, mask_size=(4, 6))
    assert targets.counts == (0, 0)
    assert targets.class_labels.dtype == torch.int64
    assert targets.boxes_cxcywh.shape == (0, 4)
    assert targets.masks.shape == (0, 4, 6)


@pytest.mark.parametrize(
    "box",
    [
        [0.98, 0.5, 0.2, 0.2],  # a corner leaves the image
        [0.0, 1.0, 1.0, 1.0],
        [0.5, 0.5, 0.0, 0.3],  # a mask one pixel wide
        [1.0 + 1e-6, 0.5, 0.1, 0.1],  # rounding
    ],
)
def test_boxes_on_the_edge_are_accepted(box):
    boxes = read_targets(labels_with(boxes=boxes_with(1, box)), **SHAPE).boxes_cxcywh
    assert box in [pytest.approx(row, abs=1e-6) for row in boxes.tolist()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_will_do(dtype):
    labels = labels_with()
    labels = [{**label, "boxes": label["boxes"].to(dtype)} for label in labels]
    assert read_targets(labels, **SHAPE).boxes_cxcywh.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_labels": torch.tensor([0, 6, 7])}, r"annotation 2: a class id must be in \[0, 7\), got 7"),
        ({"class_labels": torch.tensor([0, -1, 3])}, r"annotation 1: a class id must be in \[0, 7\), got -1"),
        ({"class_labels": torch.tensor([0, 1])}, "boxes and class_labels must be equally many, got 3 and 2"),
        ({"class_labels": torch.zeros(3)}, r"class_labels must be \(N,\) integers, got \(3,\) float32"),
        ({"class_labels": torch.zeros(3, 1).long()}, r"must be \(N,\) integers, got \(3, 1\) int64"),
        ({"boxes": torch.zeros(4, 3)}, r"boxes must be \(N, 4\) floats, got \(4, 3\) float32"),
        ({"boxes": torch.zeros(3, 4).int()}, r"boxes must be \(N, 4\) floats, got \(3, 4\) int32"),
        (
            {"boxes": boxes_with(2, [0.5, float("nan"), 0.1, 0.1])},
            r"annotation 2: a box must be finite, got \[0",
        ),
        ({"boxes": boxes_with(0, [320.0, 200.0, 50.0, 60.0])}, r"annotation 0: center .* got \[320.0, 200.0"),
        (
            {"boxes": boxes_with(1, [0.5, 0.5, -0.1, 0.1])},
            "annotation 1: center x, center y, width and height",
        ),
        ({"boxes": boxes_with(1, [0.5, 0.5, 1.1, 0.1])}, r"must be relative to the image, in \[0, 1\]"),
        (
            {"class_labels": torch.zeros(11).long(), "boxes": torch.full((11, 4), 0.5)},
            "has 11 objects, more than the model's 10 queries",
        ),
    ],
)
def test_refusals_name_image_annotation_rule_and_value(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        read_targets(labels_with(**changes), **SHAPE)
    assert "labels[1] (image_id 42)" in str(error.value)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(2, 4, 4), r"masks must be \(3, h, w\), got \(2, 4, 4\)"),
        (torch.zeros(3, 5, 4), r"within the padded batch of \(height, width\) \(4, 4\), got \(5, 4\)"),
    ],
)
def test_masks_are_refused_by_name(masks, message):
    labels = labels_with(masks=masks)
    labels[0]["masks"] = torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match=message) as error:
        read_targets(labels, **SHAPE, mask_size=(4, 4))
    assert "labels[1] (image_id 42)" in str(error.value)


def test_an_image_id_may_be_a_plain_number():
    labels = labels_with(boxes=torch.zeros(3, 4).int())
    labels[1]["image_id"] = 42
    with pytest.raises(ValueError, match=r"labels\[1\] \(image_id 42\)"):
        read_targets(labels, **SHAPE)


def test_missing_parts_are_named():
    labels = labels_with()
    with pytest.raises(ValueError, match=r"labels\[0\] has no 'masks'; its keys are \['boxes', 'class_labels'\]"):
        read_targets(labels, **SHAPE, mask_size=(4, 4))
    del labels[1]["class_labels"]
    with pytest.raises(ValueError, match=r"labels\[1\] \(image_id 42\) has no 'class_labels'"):
        read_targets(labels, **SHAPE)
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        read_targets(labels[:1], **SHAPE)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="boxes must be a tensor, got list"):
        read_targets(labels_with(boxes=[[0.5] * 4] * 3), **SHAPE)
    with pytest.raises(TypeError, match=r"labels\[0\] must be a mapping, got Tensor"):
        read_targets([torch.zeros(3), torch.zeros(3)], **SHAPE)
