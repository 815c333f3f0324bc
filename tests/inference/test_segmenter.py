"""Segmenter: the segments of post-processing, alone and in batches, with few masks computed or all."""

import numpy as np
import pytest
import torch
from PIL import Image
from sure_segmenter import NAMES, STUFF, sure_segmenter

from transformers_detr import Segmenter
from transformers_detr.model.postprocessing_segmentation_detr import post_process_panoptic_paper

SIZES = [(90, 60), (60, 90), (64, 64), (90, 61), (120, 60)]
TASKS = ["panoptic", "instance", "semantic"]


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in SIZES]
    return [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(noise, SIZES, strict=True)]


def assert_same(found, expected):
    """Equal, but for the last digits of the scores."""
    assert [info["label_id"] for info in found.segments_info] == [info["label_id"] for info in expected.segments_info]
    np.testing.assert_array_equal(found.segmentation, expected.segmentation)
    for one, other in zip(found.segments_info, expected.segments_info, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_batches_of_mixed_sizes_equal_each_alone(images, task):
    segmenter = sure_segmenter(task)
    segmenter.model.double()  # so that no pixel hangs on the last digits
    together = segmenter(images, batch_size=3)
    assert sum(map(len, together)) > 2 * len(images)
    for image, found in zip(images, together, strict=True):
        assert found.segmentation.shape == found.image_size == (image.height, image.width)
        assert found.segmentation.dtype == np.int32
        assert [info["id"] for info in found.segments_info] == list(range(1, len(found) + 1))
        assert {*np.unique(found.segmentation).tolist(), 0} == set(range(len(found) + 1))
        assert_same(found, segmenter(image))


@pytest.mark.parametrize(("task", "threshold"), [("panoptic", None), ("panoptic", 0.5), ("instance", None)])
def test_few_masks_are_computed_and_give_the_segments_of_all(images, task, threshold, monkeypatch):
    segmenter = sure_segmenter(task)
    forward, chosen = segmenter.model.forward, []

    def spy(mask_queries, **inputs):
        chosen.append(mask_queries)
        return forward(mask_queries="all", **inputs)

    few = segmenter(images, threshold=threshold)
    monkeypatch.setattr(segmenter.model, "forward", spy)
    for found, expected in zip(few, segmenter(images, threshold=threshold), strict=True):
        np.testing.assert_array_equal(found.segmentation, expected.segmentation)
        assert found.segments_info == expected.segments_info
    segmenter(images[0], threshold=0.3)
    sure_of_nothing = Segmenter(segmenter.model, segmenter.image_processor, "semantic")
    sure_of_nothing(images[0])
    assert set(chosen[:-2]) == {"confident"}
    assert chosen[-2:] == ["all", "all"]


def test_panoptic_segments_are_those_of_the_papers_procedure(images):
    segmenter = sure_segmenter()
    image = images[0]
    inputs = segmenter.image_processor(image, return_tensors="pt")
    with torch.no_grad():
        outputs = segmenter.model(**inputs)
    size = inputs["pixel_values"].shape[2:]
    expected = post_process_panoptic_paper(outputs, [size], 0.85, STUFF, [(image.height, image.width)])[0]
    found = segmenter(image)
    np.testing.assert_array_equal(found.segmentation, expected["segmentation"].numpy())
    kept = [(info["id"], info["label_id"], info["score"], info["was_fused"]) for info in expected["segments_info"]]
    assert [(i["id"], i["label_id"], i["score"], i["is_stuff"]) for i in found.segments_info] == kept
    assert [info["name"] for info in found.segments_info] == [NAMES[label] for _, label, _, _ in kept]
    assert {stuff for *_, stuff in kept} == {False, True}


def test_instances_are_things_and_semantic_segments_are_classes(images):
    for found in sure_segmenter("instance")(images):
        assert not {info["label_id"] for info in found.segments_info} & set(STUFF)
        assert all(info["score"] > 0.5 for info in found.segments_info)
    semantic = sure_segmenter("semantic")
    for image, found in zip(images, semantic(images, batch_size=1), strict=True):
        inputs = semantic.image_processor(image, return_tensors="pt")
        with torch.no_grad():
            outputs = semantic.model(**inputs)
        target = [(image.height, image.width)]
        classes = semantic.image_processor.post_process_semantic_segmentation(outputs, target_sizes=target)[0]
        np.testing.assert_array_equal(found.class_map(), classes.numpy())
        assert all(info["score"] is None for info in found.segments_info)


def test_saved_segmenter_loads_for_a_task(images, tmp_path):
    segmenter = sure_segmenter("instance")
    segmenter.model.save_pretrained(tmp_path)
    segmenter.image_processor.save_pretrained(tmp_path)
    loaded = Segmenter.from_pretrained(tmp_path, task="instance", device="cpu")
    for found, expected in zip(loaded(images), segmenter(images), strict=True):
        np.testing.assert_array_equal(found.segmentation, expected.segmentation)
    by_name = Segmenter(tmp_path, task="instance", device="cpu")
    assert_same(by_name(images[0], 0.5), segmenter(images[0]))
    with pytest.raises(TypeError, match="Segmenter: model must be"):
        Segmenter(3)
    with pytest.raises(TypeError, match=r"Segmenter call .*'treshold'"):
        by_name(images[0], treshold=0.5)
    with pytest.raises(ValueError, match="task must be one of panoptic, instance, semantic, got 'depth'"):
        Segmenter.from_pretrained(tmp_path, task="depth", device="cpu")


def test_kept_images_can_be_drawn_on(images):
    found = sure_segmenter()(images[0], keep_images=True)
    drawn = found.draw()
    assert drawn.size == images[0].size
    assert drawn.tobytes() != images[0].tobytes()
    assert drawn.tobytes() == sure_segmenter()(images[0]).draw(images[0]).tobytes()
