"""The framework's own entry points: pipelines and `Auto*` classes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from sure_segmenter import sure_segmenter
from tiny_detr import randomize_norms, tiny_config

from transformers_detr import DetrForObjectDetection, DetrImageProcessor

SIZES = [(64, 96), (90, 50), (64, 96), (33, 40)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config(exact_padding=True)).eval()
    randomize_norms(model)
    return model


@pytest.fixture(scope="module")
def processor():
    return DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in SIZES]


def test_batches_of_mixed_sizes_equal_the_images_alone(model, processor, images):
    detector = transformers.pipeline("object-detection", model=model, image_processor=processor)
    alone = [detector(image, threshold=0.0) for image in images]
    together = detector(images, threshold=0.0, batch_size=3)
    assert [len(found) for found in alone] == [10] * len(SIZES)
    for left, right in zip(alone, together, strict=True):
        for one, other in zip(left, right, strict=True):
            assert one["label"] == other["label"]
            assert abs(one["score"] - other["score"]) < 1e-5
            assert all(abs(one["box"][side] - other["box"][side]) <= 1 for side in one["box"])  # whole pixels


def test_the_pipeline_finds_what_post_processing_finds(model, processor, images):
    image = images[0]
    detector = transformers.pipeline("object-detection", model=model, image_processor=processor)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    found = processor.post_process_object_detection(outputs, 0.0, [image.size[::-1]])[0]
    expected = {
        (round(score.item(), 4), *box.int().tolist())
        for score, box in zip(found["scores"], found["boxes"], strict=True)
    }
    answers = detector(image, threshold=0.0)
    assert {(round(a["score"], 4), *a["box"].values()) for a in answers} == expected


@pytest.mark.parametrize("subtask", ["panoptic", "instance", "semantic"])
def test_segmentation_pipelines_give_the_segments_alone_and_in_batches(subtask, images):
    ours = sure_segmenter()
    ours.model.config.exact_padding = True
    segment = transformers.pipeline("image-segmentation", model=ours.model, image_processor=ours.image_processor)
    limits = {"threshold": 0.9, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.5}
    together = segment(images, batch_size=3, subtask=subtask, **limits)
    assert sum(map(len, together)) > len(images)
    post_process = getattr(ours.image_processor, f"post_process_{subtask}_segmentation")
    limits = {} if subtask == "semantic" else limits
    for image, answers in zip(images, together, strict=True):
        with torch.no_grad():
            outputs = ours.model(**ours.image_processor(image, return_tensors="pt"))
        found = post_process(outputs, target_sizes=[image.size[::-1]], **limits)[0]
        if subtask == "semantic":
            expected = [(label, found == label) for label in found.unique().tolist()]
        else:
            ids = found["segmentation"]
            expected = [(info["label_id"], ids == info["id"]) for info in found["segments_info"]]
        names = ours.model.config.id2label
        assert [answer["label"] for answer in answers] == [names[label] for label, _ in expected]
        for answer, (_, mask) in zip(answers, expected, strict=True):
            assert ((np.asarray(answer["mask"]) > 0) != mask.numpy()).sum() <= 4


def test_auto_classes_are_ours_on_request_only(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    script = textwrap.dedent(
        f"""
        import transformers, transformers_detr
        from transformers_detr import use_for_auto

        def classes():
            model = transformers.AutoModelForObjectDetection.from_pretrained({str(tmp_path)!r})
            processor = transformers.AutoImageProcessor.from_pretrained({str(tmp_path)!r})
            return [type(part).__module__.split(".")[0] for part in (model, processor)]

        print(*classes())
        use_for_auto()
        use_for_auto()
        print(*classes())
        print(type(transformers.pipeline("object-detection", {str(tmp_path)!r}).model).__module__.split(".")[0])
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:3] == [
        "transformers transformers",
        "transformers_detr transformers_detr",
        "transformers_detr",
    ]


def test_importing_the_package_is_light():
    """No more than importing torch and the base of transformers; in fact much less, since names load when used."""
    script = textwrap.dedent(
        """
        import sys, time
        started = time.perf_counter()
        import transformers_detr
        elapsed = time.perf_counter() - started
        heavy = {"torch", "transformers", "timm", "PIL", "scipy", "typer"} & set(sys.modules)
        print(elapsed, sorted(heavy))
        import torch, transformers.modeling_utils
        before = set(sys.modules)
        from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
        loaded = {name.split(".")[0] for name in set(sys.modules) - before}
        print(sorted(loaded & {"timm", "matplotlib", "faster_coco_eval", "typer"}))
        """
    )
    first, second = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    elapsed, heavy = first.split(maxsplit=1)
    assert heavy == "[]"
    assert float(elapsed) < 0.2
    assert second == "[]"
