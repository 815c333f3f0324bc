"""Segments: their forms for COCO's tools and as classes."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from transformers_detr.inference.segments import Segments, renumber

IDS = np.array([[0, 7, 7, 7], [70000, 70000, 7, 0], [70000, 70000, 0, 0]])


def made(label=300, **more):
    info = [
        {"id": 70000, "label_id": 2, "name": "椅子", "score": 0.5, "is_stuff": False},
        {"id": 7, "label_id": label, "name": "sky", "score": None, "is_stuff": True},
    ]
    return Segments(segmentation=IDS, segments_info=info, **more)


def test_classes_of_pixels():
    small = made(label=9).class_map(nothing=255)
    assert small.dtype == np.uint8
    assert small.tolist() == [[255, 9, 9, 9], [2, 2, 9, 255], [2, 2, 255, 255]]
    large = made().class_map()
    assert large.dtype == np.uint16
    assert large.tolist() == [[0, 300, 300, 300], [2, 2, 300, 0], [2, 2, 0, 0]]


def test_coco_panoptic():
    image, entry = made().to_coco_panoptic(5, "x.png")
    np.testing.assert_array_equal(image.astype(int) @ [1, 256, 65536], IDS)
    assert entry == {
        "image_id": 5,
        "file_name": "x.png",
        "segments_info": [
            {"id": 70000, "category_id": 2, "area": 4, "bbox": [0, 1, 2, 2], "iscrowd": 0},
            {"id": 7, "category_id": 300, "area": 4, "bbox": [1, 0, 3, 2], "iscrowd": 0},
        ],
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
def test_run_lengths_are_read_by_pycocotools():
    entries = made().to_coco(5)
    assert [(e["image_id"], e["category_id"], e["score"]) for e in entries] == [(5, 2, 0.5), (5, 300, None)]
    for entry, number in zip(entries, (70000, 7), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), number == IDS)


def test_renumbering():
    assert renumber(IDS, [7, 70000]).tolist() == [[0, 1, 1, 1], [2, 2, 1, 0], [2, 2, 0, 0]]
    assert renumber(IDS, [0]).tolist() == (IDS == 0).astype(int).tolist()
    assert renumber(IDS, []).tolist() == np.zeros_like(IDS).tolist()
    assert renumber(IDS, []).dtype == np.int32


def test_drawing_needs_the_upright_image():
    with pytest.raises(ValueError, match="keep_images=True"):
        made().draw()
    with pytest.raises(ValueError, match=r"\(3, 4\) .* got \(4, 3\); is it upright"):
        made().draw(Image.new("RGB", (3, 4)))
    assert made(image=Image.new("RGB", (4, 3))).draw().size == (4, 3)


def test_items_and_selections():
    segments = made()
    assert [(item.label, item.class_id, item.score, item.is_stuff) for item in segments] == [
        ("椅子", 2, 0.5, False),
        ("sky", 300, None, True),
    ]
    np.testing.assert_array_equal(segments[1].mask, IDS == 7)
    for key in (slice(1, None), [1], [False, True], np.array([1])):
        chosen = segments[key]
        assert chosen.segments_info == segments.segments_info[1:]
        np.testing.assert_array_equal(chosen.segmentation, IDS * (IDS == 7))


def test_filter_counts_and_repr():
    segments = made(source="a/photo.jpg", id2label={2: "椅子", 300: "sky"})
    assert [item.label for item in segments.filter("椅子")] == [item.label for item in segments.filter(2)] == ["椅子"]
    assert [item.label for item in segments.filter(min_score=0.6)] == ["sky"], "without a score"
    with pytest.raises(ValueError, match=r"no class 'ski'\. Did you mean 'sky'"):
        segments.filter("ski")
    assert segments.counts() == {"椅子": 1, "sky": 1}
    assert repr(segments) == "Segments(2 segments in photo.jpg: 1 椅子, 1 sky)"


def test_the_source_is_drawn_on(tmp_path):
    ground = Image.new("RGB", (4, 3), "gray")
    segments = made(source=ground)
    assert segments.draw().tobytes() == made().draw(ground).tobytes() != ground.tobytes()
    segments.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").tobytes() == segments.draw().tobytes()
    assert segments._repr_png_().startswith(b"\x89PNG")
    assert made()._repr_png_() is None
