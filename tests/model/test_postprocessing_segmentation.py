"""Segments against the original's id maps, stock transformers and pycocotools."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_detr.model import postprocessing_segmentation_detr
from transformers_detr.model.coco_masks_detr import rgb_to_ids
from transformers_detr.model.postprocessing_segmentation_detr import (
    NO_SEGMENT,
    post_process_instance_segmentation,
    post_process_panoptic_paper,
    post_process_panoptic_segmentation,
    post_process_semantic_segmentation,
    segments_to_coco,
)

CLASSES, QUERIES = 20, 12
TARGETS = [(53, 61), (40, 33)]
SETTINGS = {"threshold": 0.3, "mask_threshold": 0.3, "overlap_mask_area_threshold": 0.02}


def make_outputs(seed=0, canvas=(10, 12)):
    """Smooth random masks, so that segments have a size, and a few classes that repeat."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, QUERIES, CLASSES + 1, generator=generator)
    classes = torch.randint(0, 4, (2, QUERIES), generator=generator)
    logits.scatter_(2, classes[..., None], 5.0 + torch.rand(2, QUERIES, 1, generator=generator))
    logits[:, ::5, -1] = 9.0  # some are "no object"
    coarse = 4 * torch.randn(2, QUERIES, 4, 4, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size=canvas, mode="bicubic")
    return SimpleNamespace(logits=logits, pred_masks=masks)


@pytest.fixture(scope="module")
def stock():
    from transformers import DetrImageProcessor

    return DetrImageProcessor()


def class_map(segmentation, segments_info):
    label_of_id = {info["id"]: info["label_id"] for info in segments_info} | {NO_SEGMENT: -1}
    return np.vectorize(label_of_id.get)(segmentation.numpy())


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_unfused_segments_are_those_of_stock(targets, stock):
    outputs = make_outputs()
    theirs = stock.post_process_panoptic_segmentation(
        outputs, label_ids_to_fuse=set(), target_sizes=targets, **SETTINGS
    )
    ours = post_process_panoptic_segmentation(outputs, target_sizes=targets, **SETTINGS)
    instances = post_process_instance_segmentation(outputs, target_sizes=targets, **SETTINGS)
    for our, instance, their in zip(ours, instances, theirs, strict=True):
        assert len(our["segments_info"]) > 3
        assert our["segments_info"] == instance["segments_info"] == their["segments_info"]
        assert our["segmentation"].dtype == torch.int32
        assert torch.equal(our["segmentation"], their["segmentation"])
        assert torch.equal(our["segmentation"], instance["segmentation"])


def test_fused_segments_are_the_unfused_ones_under_one_id_per_class():
    """Stock's ids repeat after a fused class, so ours are compared with the unfused segments, equal to stock's."""
    outputs, fused = make_outputs(), {0, 1}
    unfused = post_process_panoptic_segmentation(outputs, target_sizes=TARGETS, **SETTINGS)
    ours = post_process_panoptic_segmentation(outputs, label_ids_to_fuse=fused, target_sizes=TARGETS, **SETTINGS)
    for our, plain in zip(ours, unfused, strict=True):
        infos = our["segments_info"]
        assert [info["id"] for info in infos] == list(range(1, len(infos) + 1))
        assert set(our["segmentation"].unique().tolist()) - {NO_SEGMENT} == {info["id"] for info in infos}
        labels = [info["label_id"] for info in infos]
        assert all(labels.count(label) == 1 for label in fused & set(labels))
        assert len(infos) < len(plain["segments_info"])
        assert (class_map(**our) == class_map(**plain)).all()
        for info in infos:
            label = info["label_id"]
            scores = [other["score"] for other in plain["segments_info"] if other["label_id"] == label]
            assert info["was_fused"] == (label in fused)
            assert info["score"] == max(scores) if info["was_fused"] else info["score"] in scores


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_semantic_maps_are_those_of_stock(targets, stock):
    outputs = make_outputs()
    theirs = stock.post_process_semantic_segmentation(outputs, targets)
    ours = post_process_semantic_segmentation(outputs, targets)
    scored = post_process_semantic_segmentation(outputs, targets, return_segmentation_scores=True)
    for our, their, with_scores in zip(ours, theirs, scored, strict=True):
        assert len(our.unique()) > 2
        assert torch.equal(our, their)
        assert torch.equal(our, with_scores.segmentation)
        assert with_scores["segmentation_scores"].shape == (CLASSES, *our.shape)
        assert torch.equal(with_scores["segmentation_scores"].argmax(0), our)


@pytest.mark.parametrize("at_once", [1, 3, 7, 19])
def test_semantic_maps_do_not_depend_on_the_number_of_classes_at_once(at_once, monkeypatch):
    """Every class wins somewhere; of equal classes the first."""
    outputs = make_outputs()
    classes = torch.arange(2 * QUERIES).view(2, QUERIES) % CLASSES
    outputs.logits.scatter_(2, classes[..., None], 9.0)
    outputs.logits[:, :, -1] = -9.0
    outputs.logits[..., 11] = outputs.logits[..., 4]
    expected = post_process_semantic_segmentation(outputs, TARGETS, return_segmentation_scores=True)
    monkeypatch.setattr(postprocessing_segmentation_detr, "CLASSES_AT_ONCE", at_once)
    for ours, scored in zip(post_process_semantic_segmentation(outputs, TARGETS), expected, strict=True):
        assert torch.equal(ours, scored["segmentation_scores"].argmax(0))
    assert len(torch.cat([result["segmentation"].flatten() for result in expected]).unique()) > 12


@pytest.mark.parametrize("threshold", [1.0, 0.999999])
@pytest.mark.parametrize(
    "post_process",
    [
        post_process_panoptic_segmentation,
        post_process_instance_segmentation,
        lambda outputs, **kw: post_process_panoptic_paper(outputs, [(40, 48)] * 2, **kw),
    ],
)
def test_nothing_is_one_value(post_process, threshold):
    outputs = make_outputs()
    outputs.pred_masks[:, :, :5] -= 1e4
    for size, result in zip(TARGETS, post_process(outputs, threshold=threshold, target_sizes=TARGETS), strict=True):
        assert result["segments_info"] == []
        assert result["segmentation"].shape == size
        assert result["segmentation"].dtype == torch.int32
        assert (result["segmentation"] == NO_SEGMENT).all()


@pytest.mark.parametrize(
    "post_process",
    [
        lambda outputs, sizes: post_process_panoptic_segmentation(
            outputs,
            label_ids_to_fuse={1},
            target_sizes=TARGETS[: len(sizes)],
            processed_sizes=sizes,
            **SETTINGS,
        ),
        lambda outputs, sizes: post_process_instance_segmentation(
            outputs, target_sizes=TARGETS[: len(sizes)], processed_sizes=sizes, **SETTINGS
        ),
        lambda outputs, sizes: post_process_panoptic_paper(
            outputs, sizes, threshold=0.3, label_ids_to_fuse={1}, target_sizes=TARGETS[: len(sizes)]
        ),
        lambda outputs, sizes: [
            {"segmentation": classes, "segments_info": []}
            for classes in post_process_semantic_segmentation(outputs, TARGETS[: len(sizes)], processed_sizes=sizes)
        ],
    ],
    ids=["panoptic", "instance", "paper", "semantic"],
)
def test_segments_in_a_padded_batch_are_those_of_the_image_alone(post_process):
    canvas = make_outputs()
    together = post_process(canvas, [(30, 47), (38, 25)])[0]
    alone = SimpleNamespace(logits=canvas.logits[:1], pred_masks=canvas.pred_masks[:1, :, :8, :12])
    (single,) = post_process(alone, [(30, 47)])
    assert torch.equal(together["segmentation"], single["segmentation"])
    assert together["segments_info"] == single["segments_info"]
    assert len(single["segmentation"].unique()) > 2


def test_instances_as_coco_rle():
    coco = pytest.importorskip("pycocotools.mask")
    outputs = make_outputs()
    maps = post_process_instance_segmentation(outputs, target_sizes=TARGETS, **SETTINGS)
    encoded = post_process_instance_segmentation(outputs, target_sizes=TARGETS, return_coco_annotation=True, **SETTINGS)
    for ids, rles, size in zip(maps, encoded, TARGETS, strict=True):
        assert rles["segments_info"] == ids["segments_info"]
        for rle, info in zip(rles["segmentation"], rles["segments_info"], strict=True):
            mask = (ids["segmentation"] == info["id"]).numpy()
            assert rle["size"] == list(size)
            assert coco.area(rle) == mask.sum()
            columns, rows = mask.any(0).nonzero()[0], mask.any(1).nonzero()[0]
            box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
            assert coco.toBbox(rle).tolist() == box


@pytest.mark.parametrize("image", ["A", "B"])
@pytest.mark.parametrize("size", ["processed_size", "photo_size"])
def test_the_papers_procedure_gives_the_originals_segments(image, size, golden_json, golden_tensors, golden_path):
    golden = golden_json("detr-r50-panoptic.postprocess.json")
    expected = golden["panoptic"][f"{image}.0.{size}"]
    result = run_paper(image, expected, golden, golden_json, golden_tensors)
    wanted = [(info["category_id"], not info["isthing"]) for info in expected["segments_info"]]
    assert [(info["label_id"], info["was_fused"]) for info in result["segments_info"]] == wanted

    # The original counts from 0 and has no value for "nothing".
    segment_map = golden_path("detr-r50-panoptic.postprocess", f"{image}.0.{size}.png")
    theirs = torch.from_numpy(np.array(Image.open(segment_map))).int() + 1
    assert (result["segmentation"] != theirs).sum() <= 16

    scores = {query: score for query, _, score in golden["kept_queries"][f"{image}.0"]}
    assert all(min(abs(info["score"] - score) for score in scores.values()) < 1e-4 for info in result["segments_info"])


@pytest.mark.parametrize("image", ["A", "B"])
def test_the_papers_procedure_may_find_nothing(image, golden_json, golden_tensors):
    golden = golden_json("detr-r50-panoptic.postprocess.json")
    assert golden["panoptic"][f"{image}.0.threshold_1"]["segments_info"] == []
    sizes = golden["panoptic"][f"{image}.0.processed_size"]
    result = run_paper(image, sizes, golden | {"threshold": 1.0}, golden_json, golden_tensors)
    assert result["segments_info"] == []
    assert result["segmentation"].max() == NO_SEGMENT


def run_paper(image, sizes, golden, golden_json, golden_tensors):
    raw = golden_tensors("detr-r50-panoptic.outputs.safetensors")
    queries = golden_json("detr-r50-panoptic.outputs.json")["queries"][image]
    outputs = SimpleNamespace(logits=raw[f"{image}/pred_logits"][:, queries], pred_masks=raw[f"{image}/pred_masks"])
    (result,) = post_process_panoptic_paper(
        outputs,
        [sizes["processed_size"]],
        threshold=golden["threshold"],
        label_ids_to_fuse=range(91, 250),
        target_sizes=[sizes["target_size"]],
    )
    return result


def test_the_papers_procedure_reassigns_pixels_of_small_segments():
    """Three bands; the middle one of 4 pixels is dropped, and its pixels go to the next highest logit."""
    masks = torch.full((1, 3, 2, 8), -9.0)
    masks[0, 0, :, :4] = 5.0
    masks[0, 1, :, 4] = 6.0
    masks[0, 0, :, 4] = 1.0
    masks[0, 2, :, 5:] = 5.0
    logits = torch.full((1, 3, 4), -20.0)
    logits[0, [0, 1, 2], [0, 1, 2]] = 20.0
    outputs = SimpleNamespace(logits=logits, pred_masks=masks)
    (kept,) = post_process_panoptic_paper(outputs, [(8, 32)], target_sizes=[(4, 8)], smallest_area=1)
    assert [info["label_id"] for info in kept["segments_info"]] == [0, 1, 2]
    (result,) = post_process_panoptic_paper(outputs, [(8, 32)], target_sizes=[(4, 8)])
    assert [info["label_id"] for info in result["segments_info"]] == [0, 2]
    assert result["segmentation"].tolist() == [[1, 1, 1, 1, 1, 2, 2, 2]] * 4


def test_segments_as_coco_panoptic_annotation():
    (result, _) = post_process_panoptic_segmentation(make_outputs(), target_sizes=TARGETS, **SETTINGS)
    image, annotation = segments_to_coco(result, image_id=7, file_name="7.png")
    assert image.dtype == np.uint8
    ids = rgb_to_ids(image)
    assert (ids == result["segmentation"].numpy()).all()
    assert (annotation["image_id"], annotation["file_name"]) == (7, "7.png")
    infos = annotation["segments_info"]
    assert [info["category_id"] for info in infos] == [info["label_id"] for info in result["segments_info"]]
    for info in infos:
        mask = Image.fromarray(ids == info["id"])
        left, top, right, bottom = mask.getbbox()
        assert info["bbox"] == [left, top, right - left, bottom - top]
        assert info["area"] == (ids == info["id"]).sum()
        assert set(info) == {"id", "category_id", "area", "bbox", "iscrowd"}
        assert info["iscrowd"] == 0


def one_query(masks, score=40.0):
    """Outputs of one image whose queries have these mask logits `(Q, h, w)` and classes 0, 1, …"""
    logits = torch.full((1, len(masks), len(masks) + 1), -20.0)
    logits[0, range(len(masks)), range(len(masks))] = torch.tensor(score)
    logits[0, :, -1] = 0.0
    return SimpleNamespace(logits=logits, pred_masks=masks[None])


def segments_of(masks, **settings):
    (result,) = post_process_panoptic_segmentation(one_query(masks), **settings)
    return [info["label_id"] for info in result["segments_info"]]


def test_a_pixel_at_the_mask_threshold_belongs_to_the_mask():
    assert segments_of(torch.zeros(1, 4, 4)) == [0]
    assert segments_of(torch.full((1, 4, 4), -0.1)) == []  # it owns the pixels, but its mask has none


def test_a_segment_may_have_one_pixel():
    masks = torch.full((2, 4, 4), -9.0)
    masks[0], masks[1, 2, 3] = 1.0, 9.0
    assert segments_of(masks, overlap_mask_area_threshold=0.5) == [0, 1]


def test_a_share_at_the_overlap_threshold_is_too_small():
    masks = torch.full((2, 1, 8), -9.0)
    masks[0], masks[1, 0, :4] = 2.0, 9.0  # the first query keeps 4 of 8 pixels
    assert segments_of(masks, overlap_mask_area_threshold=0.5) == [1]
    assert segments_of(masks, overlap_mask_area_threshold=0.49) == [0, 1]


@pytest.mark.parametrize(("pixels", "found"), [(5, [0, 1]), (4, [0])])
def test_the_papers_procedure_drops_segments_of_at_most_four_pixels(pixels, found):
    masks = torch.full((2, 2, 8), -9.0)
    masks[0], masks[1].view(-1)[:pixels] = 1.0, 9.0
    (result,) = post_process_panoptic_paper(one_query(masks), [(8, 32)], target_sizes=[(2, 8)])
    assert [info["label_id"] for info in result["segments_info"]] == found


def test_a_score_at_the_threshold_does_not_survive():
    outputs = one_query(torch.ones(1, 4, 4), score=0.0)
    outputs.logits = torch.tensor([[[0.0, 0.0]]])
    assert post_process_panoptic_segmentation(outputs, threshold=0.5, mask_threshold=0.1)[0]["segments_info"] == []
    outputs.logits = torch.tensor([[[0.1, 0.0]]])
    assert len(post_process_panoptic_segmentation(outputs, threshold=0.5, mask_threshold=0.1)[0]["segments_info"]) == 1


@pytest.mark.parametrize(
    "post_process",
    [
        lambda outputs, sizes: post_process_panoptic_paper(outputs, sizes),
        lambda outputs, sizes: post_process_panoptic_segmentation(outputs, processed_sizes=sizes),
        lambda outputs, sizes: post_process_semantic_segmentation(outputs, processed_sizes=sizes),
    ],
)
def test_wrong_sizes_and_batches_are_refused(post_process):
    outputs = make_outputs()
    with pytest.raises(ValueError, match=r"^processed_sizes\[1\] must be"):
        post_process(outputs, [(40, 48), (0, 48)])
    with pytest.raises(ValueError, match="is shorter"):
        post_process(SimpleNamespace(logits=outputs.logits, pred_masks=outputs.pred_masks[:1]), [(40, 48)] * 2)
