"""The framework's `image-segmentation` pipeline with our instances, and its `Auto*` classes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_segmenter import tiny_segmenter

from transformers_detr import DetrImageProcessor

SIZES = [(64, 96), (90, 50), (64, 96), (33, 40)]


@pytest.fixture(scope="module")
def processor():
    return DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.fixture(scope="module")
def model(processor, images):
    """About half of its queries are sure of their class and mask."""
    model = tiny_segmenter(exact_padding=True)
    classifier = model.detr.class_labels_classifier
    with torch.no_grad():
        model.mask_head.out_lay.weight *= 20
        classifier.weight *= 15
        logits = model.detr(**processor(images, return_tensors="pt")).logits
        classifier.bias[-1] += (logits[..., :-1].amax(-1) - logits[..., -1]).median()
    return model


@pytest.fixture(scope="module")
def segmenter(model, processor):
    return transformers.pipeline("image-segmentation", model=model, image_processor=processor)


def by_hand(subtask, model, processor, image):
    """(label, mask) of each segment."""
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    size = [image.size[::-1]]
    if subtask == "semantic":
        classes = processor.post_process_semantic_segmentation(outputs, target_sizes=size)[0]
        return [(f"LABEL_{label}", classes == label) for label in classes.unique().tolist()]
    post_process = getattr(processor, f"post_process_{subtask}_segmentation")
    found = post_process(outputs, threshold=0.5, overlap_mask_area_threshold=0.3, target_sizes=size)[0]
    ids = found["segmentation"]
    return [(f"LABEL_{info['label_id']}", ids == info["id"]) for info in found["segments_info"]]


@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic"])
def test_answers_are_those_of_post_processing(subtask, segmenter, model, processor, images):
    options = {} if subtask == "semantic" else {"threshold": 0.5, "overlap_mask_area_threshold": 0.3}
    total = 0
    for image in images:
        answers = segmenter(image, subtask=subtask, **options)
        expected = by_hand(subtask, model, processor, image)
        assert [answer["label"] for answer in answers] == [label for label, _ in expected]
        for answer, (_, mask) in zip(answers, expected, strict=True):
            assert answer["mask"].size == image.size
            assert np.array_equal(np.array(answer["mask"]) > 0, mask.numpy())
        total += len(answers)
    assert total > len(images) / 2


@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic"])
def test_batches_of_mixed_sizes_equal_the_images_alone(subtask, segmenter, images):
    options = {"subtask": subtask} | ({} if subtask == "semantic" else {"threshold": 0.5})
    alone = [segmenter(image, **options) for image in images]
    together = segmenter(images, batch_size=3, **options)
    for left, right in zip(alone, together, strict=True):
        assert [answer["label"] for answer in left] == [answer["label"] for answer in right]
        for one, other in zip(left, right, strict=True):
            different = np.array(one["mask"]) != np.array(other["mask"])
            assert different.mean() < 1e-3


def test_auto_classes_are_ours_on_request(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    script = textwrap.dedent(
        f"""
        import transformers
        from transformers_detr import use_for_auto
        use_for_auto()
        for name in ("AutoModelForImageSegmentation", "AutoModelForUniversalSegmentation"):
            print(type(getattr(transformers, name).from_pretrained({str(tmp_path)!r})).__module__)
        print(type(transformers.pipeline("image-segmentation", {str(tmp_path)!r}).model).__module__)
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["transformers_detr.model.modeling_segmentation_detr"] * 3
