"""With the golden DC5 weights, where padding changes most, the batch size changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from convert_original import config_of
from key_map import to_stored
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.evaluation.padding_check import padding_differences
from transformers_detr.evaluation.predict import plan_batches, predict
from transformers_detr.hub.published_checkpoints import CHECKPOINTS
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection

# The full size, 800 by 1333, is what `detr evaluate --check-padding` takes; here it would take half an hour.
SIZE = {"shortest_edge": 224, "longest_edge": 373}


@pytest.fixture(scope="module")
def golden_dc5(golden_state_dict):
    model = DetrForObjectDetection(config_of(CHECKPOINTS["detr-resnet-50-dc5"]))
    model.load_state_dict(to_stored(golden_state_dict("detr-r50-dc5")))
    return model.eval(), DetrImageProcessor(size=SIZE)


@pytest.fixture(scope="module")
def images(shared_path):
    return DetectionDataset.load(shared_path("data", "coco_mini"), keep_category_ids=True).split("val")


def predictions_of(detector, images, batch_size, exact_padding):
    batches = plan_batches(images, batch_size)
    return {p.image_id: p for batch in predict(*detector, batches, exact_padding) for p in batch}


def largest_differences(first, second):
    assert first.keys() == second.keys()
    scores = max(np.abs(first[i].scores - second[i].scores).max() for i in first)
    boxes = max(np.abs(first[i].boxes_xywh - second[i].boxes_xywh).max() for i in first)
    return scores, boxes


@pytest.mark.slow
def test_batches_of_1_4_and_8_give_the_same_detections(golden_dc5, images):
    assert len(images) == 40
    alone = predictions_of(golden_dc5, images, 1, exact_padding=True)
    for batch_size in (4, 8):
        together = predictions_of(golden_dc5, images, batch_size, exact_padding=True)
        scores, boxes = largest_differences(alone, together)
        assert scores < 1e-3
        assert boxes < 0.05  # pixels of photographs of 640 by 480
        original = predictions_of(golden_dc5, images, batch_size, exact_padding=False)
        scores, boxes = largest_differences(alone, original)
        assert scores > 0.1
        assert boxes > 50


@pytest.mark.slow
def test_padding_check_says_by_how_much(golden_dc5, images):
    seen = padding_differences(*golden_dc5, plan_batches(images, 8))
    assert seen["exact"].images == 40
    assert seen["exact"].padded > 10
    # tolerances of the golden numbers: 1e-3 and 5e-5
    assert seen["exact"].logits < 1e-3
    assert seen["exact"].boxes < 5e-5
    assert seen["original"].logits > 1
    assert seen["original"].boxes > 0.1
