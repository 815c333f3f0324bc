"""Detections against the original's numbers and stock transformers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_detr.model.postprocessing_detr import (
    post_process_instance_masks,
    post_process_object_detection,
)
from transformers_detr.model.resize_detr import image_sizes, sizes_of_real_pixels


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        logits=torch.randn(2, 7, 5, generator=generator),
        pred_boxes=torch.rand(2, 7, 4, generator=generator),
        pred_masks=torch.randn(2, 7, 6, 5, generator=generator),
    )


@pytest.fixture(scope="module")
def stock():
    from transformers import DetrImageProcessor

    return DetrImageProcessor()


@pytest.mark.parametrize("batch", ["A", "B", "AB"])
def test_detections_are_the_originals(batch, golden_json, golden_tensors):
    sizes = golden_json("detr-r50.postprocess.json")["target_sizes_height_width"][batch]
    raw, expected = (
        golden_tensors("detr-r50.outputs.safetensors"),
        golden_tensors("detr-r50.postprocess.safetensors"),
    )
    outputs = SimpleNamespace(logits=raw[f"{batch}/pred_logits"], pred_boxes=raw[f"{batch}/pred_boxes"])
    results = post_process_object_detection(outputs, threshold=-1, target_sizes=torch.tensor(sizes))
    for index, result in enumerate(results):
        assert torch.equal(result["labels"], expected[f"{batch}/{index}/labels"])
        torch.testing.assert_close(result["scores"], expected[f"{batch}/{index}/scores"], rtol=0, atol=1e-6)
        torch.testing.assert_close(result["boxes"], expected[f"{batch}/{index}/boxes"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("sizes", [None, [(480, 640), (33, 57)], torch.tensor([[480, 640], [33, 57]])])
def test_detections_are_those_of_stock(sizes, outputs, stock):
    theirs = stock.post_process_object_detection(outputs, threshold=0.4, target_sizes=sizes)
    ours = post_process_object_detection(outputs, threshold=0.4, target_sizes=sizes)
    assert sum(len(result["scores"]) for result in ours) not in (0, 14)
    for our, their in zip(ours, theirs, strict=True):
        assert set(our) == set(their)
        for key in our:
            torch.testing.assert_close(our[key], their[key])


def test_sizes_may_come_in_any_form(outputs):
    pairs = [(480, 640), (33, 57)]
    expected = post_process_object_detection(outputs, target_sizes=pairs)
    images = [Image.new("L", (width, height)) for height, width in pairs]
    forms = [
        images,
        torch.tensor(pairs),
        np.array(pairs),
        [torch.tensor(pair) for pair in pairs],
        [[480.0, 640.0], (33, 57)],
        [tuple(np.array(pair)) for pair in pairs],
        [tuple(torch.tensor(pair)) for pair in pairs],
    ]
    for form in forms:
        for our, other in zip(post_process_object_detection(outputs, target_sizes=form), expected, strict=True):
            assert torch.equal(our["boxes"], other["boxes"])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([(480, 640)], "one .height, width. per image: 1 for 2 images"),
        (torch.ones(3, 2), "3 for 2 images"),
        ([(480, 640), (0, 5)], r"target_sizes\[1\] must be .* got \(0, 5\)"),
        ([(480, 640), (0.5, 5)], r"got \(0.5, 5\)"),
        ([(480, 640), (1, 2, 3)], r"got \(1, 2, 3\)"),
        ((480, 640), r"target_sizes\[0\] must be .* got 480"),
        ([None, None], "got None"),
        (480, "one .height, width. per image, got 480"),
        ("ab", "got 'a'"),
        ([(480, 640), (float("nan"), float("inf"))], "got .nan, inf"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message, outputs):
    with pytest.raises(ValueError, match=message):
        post_process_object_detection(outputs, target_sizes=sizes)


def test_the_threshold_is_a_half_by_default(outputs):
    for one, other in zip(
        post_process_object_detection(outputs), post_process_object_detection(outputs, 0.5), strict=True
    ):
        assert 0 < len(one["scores"]) < outputs.logits.shape[1]
        assert torch.equal(one["boxes"], other["boxes"])


def test_logits_and_boxes_of_different_batches_are_refused(outputs):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        post_process_object_detection(SimpleNamespace(logits=outputs.logits, pred_boxes=outputs.pred_boxes[:1]))


def test_instance_masks_carry_the_boxes_of_detections(outputs):
    sizes = [(48, 40), (24, 33)]
    found = post_process_instance_masks(outputs, [(24, 20)] * 2, sizes, threshold=0.3, top_k=3)
    plain = post_process_object_detection(outputs, 0.3, sizes, top_k=3)
    for masked, detections, size in zip(found, plain, sizes, strict=True):
        assert 0 < len(detections["boxes"]) <= 3
        for name, values in detections.items():
            assert torch.equal(masked[name], values)
        assert masked["masks"].shape == (len(values), *size)
        assert masked["masks"].dtype == torch.bool
    parts = SimpleNamespace(**vars(outputs) | {"pred_masks": outputs.pred_masks[:1]})
    with pytest.raises(ValueError, match="is shorter"):
        post_process_instance_masks(parts, [(24, 20)] * 2, sizes)


def test_a_score_at_the_threshold_is_below_it():
    outputs = SimpleNamespace(logits=torch.tensor([[[0.0, 0.0], [0.1, 0.0]]]), pred_boxes=torch.rand(1, 2, 4))
    (found,) = post_process_object_detection(outputs, 0.5)
    assert found["scores"].tolist() == [pytest.approx(0.52498, abs=1e-5)]


def test_equal_scores_keep_the_order_of_queries():
    boxes = torch.arange(4000.0).view(1, 1000, 4)
    outputs = SimpleNamespace(logits=torch.tensor([1.0, 0.0]).expand(1, 1000, 2), pred_boxes=boxes)
    (found,) = post_process_object_detection(outputs, 0.5, top_k=600)
    (first,) = post_process_object_detection(SimpleNamespace(logits=outputs.logits[:, :600], pred_boxes=boxes[:, :600]))
    assert torch.equal(found["boxes"], first["boxes"])
    (one,) = post_process_object_detection(outputs, 0.5, top_k=1)
    assert torch.equal(one["boxes"], first["boxes"][:1])


def test_top_k_are_the_best_in_order(outputs):
    every = post_process_object_detection(outputs, threshold=-1)
    best = post_process_object_detection(outputs, threshold=-1, top_k=3)
    for all_of_image, best_of_image in zip(every, best, strict=True):
        order = np.argsort(-all_of_image["scores"].numpy(), kind="stable")[:3]
        for key in ("scores", "labels", "boxes"):
            assert torch.equal(best_of_image[key], all_of_image[key][torch.from_numpy(order)])
    assert [len(result["scores"]) for result in post_process_object_detection(outputs, -1, top_k=99)] == [
        7,
        7,
    ]
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        post_process_object_detection(outputs, top_k=0)


def test_half_precision_outputs_are_ranked_in_float32(outputs):
    half = SimpleNamespace(logits=outputs.logits.bfloat16(), pred_boxes=outputs.pred_boxes.bfloat16())
    widened = SimpleNamespace(logits=half.logits.float(), pred_boxes=half.pred_boxes.float())
    for our, expected in zip(
        post_process_object_detection(half, 0.2, [(480, 640)] * 2),
        post_process_object_detection(widened, 0.2, [(480, 640)] * 2),
        strict=True,
    ):
        assert our["boxes"].dtype == our["scores"].dtype == torch.float32
        assert torch.equal(our["boxes"], expected["boxes"])


def test_queries_that_are_not_a_number_are_left_out(outputs):
    outputs.logits[0, 2] = torch.nan
    assert [len(result["scores"]) for result in post_process_object_detection(outputs, -1)] == [6, 7]


@pytest.mark.parametrize("image", ["A", "B"])
def test_instance_masks_are_the_originals(image, golden_json, golden_tensors):
    """Only some queries' masks are stored; the areas of all are."""
    expected = golden_json("detr-r50-panoptic.postprocess.json")["instance_masks"][f"{image}.0"]
    queries = golden_json("detr-r50-panoptic.outputs.json")["queries"][image]
    raw = golden_tensors("detr-r50-panoptic.outputs.safetensors")
    outputs = SimpleNamespace(
        logits=raw[f"{image}/pred_logits"][:, queries],
        pred_boxes=raw[f"{image}/pred_boxes"][:, queries],
        pred_masks=raw[f"{image}/pred_masks"],
    )
    (result,) = post_process_instance_masks(
        outputs, [expected["processed_size"]], [expected["original_size"]], threshold=-1
    )
    assert result["masks"].shape == (len(queries), *expected["original_size"])
    areas = result["masks"].sum((1, 2)).tolist()
    assert areas == pytest.approx([expected["area_of_each_query"][query] for query in queries], abs=3)


def test_instance_masks_do_not_depend_on_padding_or_on_other_queries(outputs):
    sizes, targets = [(22, 17), (24, 20)], [(31, 40), (24, 20)]
    together = post_process_instance_masks(outputs, sizes, targets, threshold=0.4)
    for index, result in enumerate(together):
        cells = (-(-sizes[index][0] // 4), -(-sizes[index][1] // 4))
        alone = SimpleNamespace(
            logits=outputs.logits[index : index + 1],
            pred_boxes=outputs.pred_boxes[index : index + 1],
            pred_masks=outputs.pred_masks[index : index + 1, :, : cells[0], : cells[1]],
        )
        (single,) = post_process_instance_masks(alone, [sizes[index]], [targets[index]], threshold=0.4)
        assert 0 < len(single["masks"]) < 7
        assert torch.equal(single["masks"], result["masks"])
    (nothing, _) = post_process_instance_masks(outputs, sizes, targets, threshold=1)
    assert nothing["masks"].shape == (0, 31, 40)


def test_wrong_processed_sizes_are_refused_by_name(outputs):
    with pytest.raises(ValueError, match=r"^processed_sizes\[1\] must be"):
        post_process_instance_masks(outputs, [(24, 20), (0, 20)], [(24, 20)] * 2)


def test_processed_size_larger_than_the_masks_is_refused(outputs):
    with pytest.raises(ValueError, match=r"\(25, 20\) pixels has masks of \(7, 5\) cells.*only \(6, 5\)"):
        post_process_instance_masks(outputs, [(24, 20), (25, 20)], [(24, 20)] * 2)


def test_sizes_of_real_pixels():
    pixel_mask = torch.zeros(2, 5, 6, dtype=torch.int64)
    pixel_mask[0, :3, :6] = 1
    pixel_mask[1, :5, :2] = 1
    assert image_sizes(sizes_of_real_pixels(pixel_mask), 2) == [(3, 6), (5, 2)]
