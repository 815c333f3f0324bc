"""COCO annotations to targets: the original's conversion, pycocotools' masks, and errors with ids."""

from __future__ import annotations

import json
import math
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_detr.model.annotations_detr import (
    detection_target,
    masks_to_boxes,
    pad_target,
    panoptic_target,
    relative_target,
    resize_target,
)

SIZE = (20, 40)


def annotation(**values) -> dict:
    """An object of 8 × 4 pixels at (10, 5)."""
    given = {"id": 77, "category_id": 3, "bbox": [10, 5, 8, 4], "iscrowd": 0, "area": 30.0, **values}
    return {key: value for key, value in given.items() if value is not ...}


def coco(*objects: dict, image_id: int = 9) -> dict:
    return {"image_id": image_id, "annotations": list(objects)}


def test_detection_target():
    target = detection_target(coco(annotation(), annotation(id=78, bbox=[-4, 18, 10, 10], area=..., iscrowd=...)), SIZE)
    assert {key: (value.dtype, value.tolist()) for key, value in target.items()} == {
        "image_id": (torch.int64, [9]),
        "orig_size": (torch.int64, [20, 40]),
        "size": (torch.int64, [20, 40]),
        "class_labels": (torch.int64, [3, 3]),
        "boxes": (torch.float32, [[10, 5, 18, 9], [0, 18, 6, 20]]),  # the second clipped to the image
        "area": (torch.float32, [30.0, 100.0]),
        "iscrowd": (torch.int64, [0, 0]),
    }


def test_targets_follow_their_image():
    target = detection_target(coco(annotation()), SIZE)
    resized = resize_target(target, (40, 120))  # twice as high, three times as wide
    assert resized["boxes"].tolist() == [[30, 10, 54, 18]]
    assert resized["area"].tolist() == [180.0]
    assert resized["size"].tolist() == [40, 120]
    assert resized["orig_size"].tolist() == [20, 40]
    relative = relative_target(resized)
    assert torch.allclose(relative["boxes"], torch.tensor([[42 / 120, 14 / 40, 24 / 120, 8 / 40]]))
    assert pad_target(relative, (50, 130)) == relative  # boxes never know of padding
    assert target["boxes"].tolist() == [[10, 5, 18, 9]]  # the first target is what it was


def test_crowds_and_degenerate_boxes_are_left_out():
    objects = [
        annotation(id=1, iscrowd=1),
        annotation(id=2, bbox=[10, 5, 0, 4]),
        annotation(id=3, bbox=[10, 5, -3, 4]),
        annotation(id=4, bbox=[40, 5, 8, 4]),  # begins where the image ends
        annotation(id=5, category_id=8),
    ]
    assert detection_target(coco(*objects), SIZE)["class_labels"].tolist() == [8]
    for bad in objects[1:4]:
        with pytest.raises(ValueError, match=rf"^image 9, annotation {bad['id']}: bbox .* has no area"):
            detection_target(coco(objects[4], bad), SIZE, degenerate_boxes="refuse")


def test_images_without_objects():
    for target in (
        detection_target(coco(), SIZE, return_masks=True),
        detection_target(coco(annotation(iscrowd=1)), SIZE, return_masks=True),
        detection_target(coco(annotation(bbox=[3, 3, 0, 0])), SIZE, return_masks=True),
    ):
        fitted = pad_target(relative_target(resize_target(target, (10, 20))), (12, 22))
        assert fitted["boxes"].shape == (0, 4)
        assert fitted["masks"].shape == (0, 12, 22)
        assert fitted["class_labels"].dtype == torch.int64


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bbox": ...}, "has no bbox; its keys are"),
        ({"category_id": ...}, "has no category_id"),
        ({"bbox": [1, 2, 3]}, r"bbox must be four numbers .* got \[1, 2, 3\]"),
        ({"bbox": "1234"}, "bbox must be four numbers"),
        ({"bbox": [1, 2, math.nan, 4]}, "bbox must hold finite numbers, got nan"),
        ({"bbox": [1, 2, math.inf, 4]}, "finite numbers, got inf"),
        ({"bbox": [1, 2, None, 4]}, "finite numbers, got None"),
        ({"category_id": -1}, "category_id must not be negative, got -1"),
        ({"category_id": 1.5}, r"category_id must be a whole number, got 1\.5"),
        ({"category_id": "cat"}, "got 'cat'"),
        ({"iscrowd": 2}, "iscrowd must be 0 or 1, got 2"),
        ({"area": math.nan}, "area must hold finite numbers"),
    ],
)
def test_wrong_annotations_are_named(bad, message):
    with pytest.raises(ValueError, match=f"^image 9, annotation 77:? .*{message}"):
        detection_target(coco(annotation(id=1), annotation(**bad)), SIZE)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"annotations": []}, "^annotations.3. has no image_id; its keys are"),
        ({"image_id": "a", "annotations": []}, "^annotations.3.: image_id must hold finite numbers, got 'a'"),
        ({"image_id": 9}, "^image 9 has no annotations"),
        ({"image_id": 9, "annotations": {}}, "^image 9: annotations must be a list"),
        ({"image_id": 9, "annotations": [5]}, "^image 9, object 0 must be a dict"),
        (coco(annotation(id=..., bbox=...)), "^image 9, object 0 has no bbox"),
        (coco(annotation(bbox=[100, 5, 8, 4]), annotation(bbox=[3, 30, 8, 4])), "^image 9: all boxes lie outside"),
        ([], "^annotations.3. must be a dict"),
    ],
)
def test_wrong_images_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        detection_target(bad, SIZE, name="annotations[3]")


RECTANGLE = np.zeros(SIZE, bool)
RECTANGLE[5:9, 10:18] = True


def test_polygons():
    polygons = [[10, 5, 14, 5, 14, 9, 10, 9], [14, 5, 18, 5, 18, 9, 14, 9]]  # two halves of the rectangle
    target = detection_target(coco(annotation(segmentation=polygons)), SIZE, return_masks=True)
    assert target["masks"].dtype == torch.bool
    assert np.array_equal(target["masks"].numpy(), RECTANGLE[None])


def test_run_lengths():
    runs = [10 * 20 + 5, *[4, 16] * 7, 4, 11 + 22 * 20]  # column by column
    compressed = pytest.importorskip("pycocotools.mask").encode(np.asfortranarray(RECTANGLE.astype(np.uint8)))
    for rle in ({"size": list(SIZE), "counts": runs}, compressed):
        target = detection_target(coco(annotation(segmentation=rle)), SIZE, return_masks=True)
        assert np.array_equal(target["masks"].numpy(), RECTANGLE[None])


def test_masks_are_resized_to_the_nearest_pixel_and_padded():
    rle = {"size": list(SIZE), "counts": [10 * 20 + 5, *[4, 16] * 7, 4, 11 + 22 * 20]}
    target = resize_target(detection_target(coco(annotation(segmentation=rle)), SIZE, return_masks=True), (40, 120))
    assert np.array_equal(target["masks"][0].numpy(), RECTANGLE.repeat(2, 0).repeat(3, 1))
    padded = pad_target(target, (41, 125))["masks"]
    assert padded.shape == (1, 41, 125)
    assert torch.equal(padded[:, :40, :120], target["masks"])
    assert padded.sum() == target["masks"].sum()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (..., "has no segmentation"),
        ([], "segmentation is empty"),
        ([[1, 2, 3, 4]], "even count of at least 6 numbers, got 4"),
        ([[1, 2, 3, 4, 5, 6, 7]], "even count"),
        ([[1, 2, 3, 4, 5, math.nan]], "finite"),
        ([[1, 2, 3, 4, 5, "6"]], "finite numbers, got '6'"),
        ([[1, 2, 3, 4, 5, 6], [7, 8, 9]], "even count of at least 6 numbers, got 3"),
        ([1, 2, 3, 4, 5, 6], "list of polygons, got 1"),
        (7, "segmentation must be a list, got int"),
        ({"size": [40, 20], "counts": [800]}, r"size \[20, 40\] of the image, got .* \[40, 20\]"),
        ({"size": [20, 40], "counts": [799]}, "799"),
        ({"size": [20, 40], "counts": "\x7f"}, "COCO's encoding"),
    ],
)
def test_wrong_masks_are_named(segmentation, message):
    with pytest.raises(ValueError, match=f"^image 9, annotation 77:? .*{message}"):
        detection_target(coco(annotation(segmentation=segmentation)), SIZE, return_masks=True)


def test_polygons_without_faster_coco_eval(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    polygon = annotation(segmentation=[[1, 2, 3, 4, 5, 6]])
    with pytest.raises(ImportError, match="pip install faster-coco-eval"):
        detection_target(coco(polygon), SIZE, return_masks=True)


def test_masks_to_boxes_spans_pixel_indices():
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1:4, 2] = True
    masks[1, 0, 0] = masks[1, 4, 6] = True
    assert masks_to_boxes(masks).tolist() == [[2, 1, 2, 3], [0, 0, 6, 4]]
    assert masks_to_boxes(masks[:0]).shape == (0, 4)


def panoptic(tmp_path, segments: list[dict], **values) -> dict:
    """An image of 4 × 6 pixels: left half segment 7, right half 7 + 256·2 + 65536·3."""
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 7
    image[:, 3:, 1:] = 2, 3
    Image.fromarray(image).save(tmp_path / "x.png")
    return {"image_id": 9, "file_name": "x.png", "segments_info": segments, **values}


RIGHT = 7 + 256 * 2 + 65536 * 3


def test_panoptic_target(tmp_path):
    segments = [
        {"id": RIGHT, "category_id": 5, "iscrowd": 1, "area": 11},
        {"id": 7, "category_id": 6, "iscrowd": 0},
        {"id": 8, "category_id": 6, "iscrowd": 0},
    ]
    target = panoptic_target(panoptic(tmp_path, segments), (4, 6), tmp_path)
    right = torch.arange(6).expand(4, 6) >= 3
    assert torch.equal(target.pop("masks"), torch.stack([right, ~right]))
    assert {key: value.tolist() for key, value in target.items()} == {
        "image_id": [9],
        "orig_size": [4, 6],
        "size": [4, 6],
        "class_labels": [5, 6],
        "boxes": [[3, 0, 5, 3], [0, 0, 2, 3]],
        "area": [11, 12],  # as given; that of the mask
        "iscrowd": [1, 0],
    }
    assert "masks" not in panoptic_target(panoptic(tmp_path, segments), (4, 6), tmp_path, return_masks=False)
    with pytest.raises(ValueError, match=r"^image 9, annotation 8: no pixel of .*x\.png belongs"):
        panoptic_target(panoptic(tmp_path, segments), (4, 6), tmp_path, degenerate_boxes="refuse")
    assert panoptic_target(panoptic(tmp_path, []), (4, 6), tmp_path)["masks"].shape == (0, 4, 6)


def test_wrong_panoptic_annotations_are_named(tmp_path):
    segment = {"id": 7, "category_id": 6}
    good = panoptic(tmp_path, [segment])
    for bad, size, message in (
        ({**good, "segments_info": [{"id": 7}]}, (4, 6), "^image 9, annotation 7 has no category_id"),
        ({**good, "segments_info": [{"id": 1, "category_id": 6}]}, (4, 6), "^image 9: none of its 1 segments"),
        ({"id": 9, "file_name": "x.png"}, (4, 6), "^image 9 has no segments_info"),
        ({"id": 9, "segments_info": [segment]}, (4, 6), "^image 9 has no file_name"),
        (good, (6, 4), r"^image 9: the panoptic PNG .*x\.png is 4×6 pixels .* the image 6×4"),
        ({"file_name": "x.png"}, (4, 6), "^annotation has no image_id or id"),
    ):
        with pytest.raises(ValueError, match=message):
            panoptic_target(bad, size, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        panoptic_target({**good, "file_name": "nowhere.png"}, (4, 6), tmp_path)
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^image 9: panoptic PNG .*x\.png"):
        panoptic_target(good, (4, 6), tmp_path)


def crc32(masks: torch.Tensor) -> list[int]:
    return [zlib.crc32(np.packbits(mask.numpy().ravel()).tobytes()) for mask in masks]


def test_detection_equals_the_original(golden_json, shared_path):
    (path,) = shared_path("data", "coco_mini", "annotations").glob("instances*.json")
    every = json.loads(path.read_text())["annotations"]
    for golden in golden_json("coco_data.json"):
        objects = [item for item in every if item["image_id"] == golden["image_id"]]
        assert len(objects) == golden["annotations_in_file"]
        image = {"image_id": golden["image_id"], "annotations": objects}
        target = detection_target(image, tuple(golden["orig_size"]), return_masks=True)
        assert target["boxes"].tolist() == golden["boxes_xyxy_before_resize"]
        assert target["masks"].sum((1, 2)).tolist() == golden["mask_area_before_resize"]
        assert crc32(target["masks"]) == golden["mask_crc32_before_resize"]
        target = relative_target(resize_target(target, tuple(golden["size"])))
        assert target["boxes"].tolist() == golden["boxes_cxcywh_normalised"]
        assert target["class_labels"].tolist() == golden["labels"]
        assert target["area"].tolist() == golden["area"]
        assert target["iscrowd"].tolist() == golden["iscrowd"]
        assert target["size"].tolist() == golden["size"]
        assert target["masks"].sum((1, 2)).tolist() == golden["mask_area"]
        assert crc32(target["masks"]) == golden["mask_crc32"]


def test_panoptic_equals_the_original(golden_json, shared_path):
    folder = shared_path("data", "coco_panoptic_mini", "annotations")
    every = json.loads((folder / "panoptic_val2017.json").read_text())["annotations"]
    for golden in golden_json("panoptic_data.json"):
        (image,) = [item for item in every if item["file_name"] == golden["file_name"]]
        before, after = golden["before_resize"], golden["after_validation_transform"]
        target = panoptic_target(image, tuple(golden["orig_size"]), folder / "panoptic_val2017")
        assert target["class_labels"].tolist() == golden["labels"]
        assert target["iscrowd"].tolist() == golden["iscrowd"]
        assert target["boxes"].tolist() == before["boxes_xyxy"]
        assert target["area"].tolist() == before["area_from_json"]
        assert crc32(target["masks"]) == before["mask_crc32"]
        target = relative_target(resize_target(target, tuple(after["size"])))
        assert target["boxes"].tolist() == after["boxes_cxcywh_normalised"]
        assert target["area"].tolist() == after["area"]
        assert crc32(target["masks"]) == after["mask_crc32"]


def test_all_panoptic_images_convert(shared_path):
    """Areas and boxes of the JSON, which COCO computed from the same images, are what we find in them."""
    folder = shared_path("data", "coco_panoptic_mini", "annotations")
    content = json.loads((folder / "panoptic_val2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    assert len(content["annotations"]) == 32
    for image in content["annotations"]:
        target = panoptic_target(
            image, sizes[image["image_id"]], folder / "panoptic_val2017", degenerate_boxes="refuse"
        )
        segments = image["segments_info"]
        assert target["class_labels"].tolist() == [segment["category_id"] for segment in segments]
        assert target["masks"].sum((1, 2)).tolist() == [segment["area"] for segment in segments]
        left, top, right, bottom = target["boxes"].unbind(1)
        boxes = torch.stack([left, top, right - left + 1, bottom - top + 1], 1)
        assert boxes.tolist() == [segment["bbox"] for segment in segments]
        assert (target["masks"].sum(0) <= 1).all()
