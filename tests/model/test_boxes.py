"""Boxes against closed forms and against torchvision."""

import pytest
import torch
from torchvision import ops

from transformers_detr.model.boxes_detr import (
    box_area,
    box_iou,
    boxes_to_pixels,
    cxcywh_to_xyxy,
    elementwise_generalized_box_iou,
    xyxy_to_cxcywh,
)


def random_boxes_xyxy(*shape: int, seed: int = 0) -> torch.Tensor:
    corners = torch.rand(*shape, 2, 2, generator=torch.Generator().manual_seed(seed))
    return corners.sort(dim=-2).values.flatten(-2)


def test_the_two_formats_of_one_box():
    box_cxcywh = torch.tensor([0.5, 0.25, 0.2, 0.1])
    box_xyxy = torch.tensor([0.4, 0.2, 0.6, 0.3])
    torch.testing.assert_close(cxcywh_to_xyxy(box_cxcywh), box_xyxy)
    torch.testing.assert_close(xyxy_to_cxcywh(box_xyxy), box_cxcywh)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5), (0,), ()])
def test_conversion_agrees_with_torchvision(shape):
    boxes = random_boxes_xyxy(*shape)
    flat = boxes.reshape(-1, 4)
    torch.testing.assert_close(xyxy_to_cxcywh(boxes), ops.box_convert(flat, "xyxy", "cxcywh").reshape(boxes.shape))
    torch.testing.assert_close(cxcywh_to_xyxy(boxes), ops.box_convert(flat, "cxcywh", "xyxy").reshape(boxes.shape))


def test_pixels_take_the_width_for_x_and_the_height_for_y():
    boxes = torch.tensor([[[0.5, 0.5, 0.1, 0.2]], [[0.0, 0.25, 1.0, 0.5]]])  # (2, 1, 4)
    sizes = torch.tensor([[100, 200], [40, 80]])  # height, width
    expected = torch.tensor([[[100.0, 50.0, 20.0, 20.0]], [[0.0, 10.0, 80.0, 20.0]]])
    torch.testing.assert_close(boxes_to_pixels(boxes, sizes), expected)
    torch.testing.assert_close(boxes_to_pixels(boxes[0], sizes[0]), expected[0])


def test_known_overlaps():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    others = torch.tensor(
        [
            [0.0, 0.0, 2.0, 2.0],  # itself
            [1.0, 1.0, 3.0, 3.0],  # shares 1 of 7, hull 9
            [2.0, 0.0, 4.0, 2.0],  # touches: nothing shared, the hull is covered
            [3.0, 3.0, 5.0, 5.0],  # apart: hull 25, covered 8
            [0.5, 0.5, 1.5, 1.5],  # inside: 1 of 4
        ]
    )
    iou, union = box_iou(a[None], others)
    torch.testing.assert_close(iou[0], torch.tensor([1.0, 1 / 7, 0.0, 0.0, 1 / 4]))
    torch.testing.assert_close(union[0], torch.tensor([4.0, 7.0, 8.0, 8.0, 4.0]))
    expected = torch.tensor([1.0, 1 / 7 - 2 / 9, 0.0, -17 / 25, 1 / 4])
    torch.testing.assert_close(elementwise_generalized_box_iou(a, others), expected)


def test_pairs_agree_with_torchvision():
    a, b = random_boxes_xyxy(6, seed=1), random_boxes_xyxy(9, seed=2)
    torch.testing.assert_close(box_area(a), ops.box_area(a))
    torch.testing.assert_close(box_iou(a, b)[0], ops.box_iou(a, b))
    torch.testing.assert_close(elementwise_generalized_box_iou(a[:, None], b), ops.generalized_box_iou(a, b))


def test_leading_dimensions_are_independent():
    a, b = random_boxes_xyxy(3, 6, seed=1), random_boxes_xyxy(3, 4, seed=2)
    expected = torch.stack([ops.generalized_box_iou(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(elementwise_generalized_box_iou(a[:, :, None], b[:, None]), expected)


def test_elementwise_is_the_diagonal_of_all_pairs():
    a, b = random_boxes_xyxy(8, seed=1), random_boxes_xyxy(8, seed=2)
    torch.testing.assert_close(elementwise_generalized_box_iou(a, b), ops.generalized_box_iou(a, b).diagonal())


def test_no_boxes():
    assert box_iou(torch.zeros(0, 4), random_boxes_xyxy(3))[0].shape == (0, 3)
    assert elementwise_generalized_box_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_empty_boxes_have_finite_overlap_and_gradient():
    point = torch.tensor([0.3, 0.3, 0.3, 0.3], requires_grad=True)
    line = torch.tensor([0.3, 0.1, 0.3, 0.9])
    giou = elementwise_generalized_box_iou(point, torch.stack([point.detach(), line]))
    torch.testing.assert_close(giou, torch.zeros(2))
    giou.sum().backward()
    assert torch.isfinite(point.grad).all()


def test_gradient_of_the_generalized_overlap():
    a = random_boxes_xyxy(5, seed=3).double().requires_grad_()
    b = random_boxes_xyxy(5, seed=4).double().requires_grad_()
    assert torch.autograd.gradcheck(elementwise_generalized_box_iou, (a, b))
