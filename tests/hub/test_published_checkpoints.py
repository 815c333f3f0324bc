"""The published checkpoints' data against real files and COCO's own categories."""

from __future__ import annotations

import json
import re

import pytest

from transformers_detr.hub.class_names import COCO_NAMES, COCO_PANOPTIC_NAMES, COCO_STUFF_IDS
from transformers_detr.hub.published_checkpoints import CHECKPOINTS, DETR, KNOWN_DETECTIONS_39769, TABLE_TRANSFORMER


def test_names_of_detection_slots_are_the_published_ones(shared_path):
    path = shared_path("data", "hub_configs", "walrusblob_detr-resnet-50_config.json")
    published = json.loads(path.read_text())["id2label"]
    assert {int(slot): name for slot, name in published.items()} == COCO_NAMES


def test_names_of_panoptic_slots_are_those_of_coco(shared_path):
    path = shared_path("data", "coco_panoptic_mini", "annotations", "panoptic_val2017.json")
    categories = json.loads(path.read_text())["categories"]
    assert len(categories) == 133
    for category in categories:
        assert COCO_PANOPTIC_NAMES[category["id"]] == category["name"]
        assert (category["id"] in COCO_STUFF_IDS) == (not category["isthing"])
    named = {slot for slot in COCO_STUFF_IDS if COCO_PANOPTIC_NAMES[slot] != "N/A"}
    assert named == {category["id"] for category in categories if not category["isthing"]}


DETRS = [checkpoint for checkpoint in CHECKPOINTS.values() if checkpoint.project is DETR]
TABLES = [checkpoint for checkpoint in CHECKPOINTS.values() if checkpoint.project is TABLE_TRANSFORMER]


@pytest.mark.parametrize("checkpoint", DETRS, ids=lambda checkpoint: checkpoint.name)
def test_facts_agree_with_each_other(checkpoint):
    name = checkpoint.name
    assert checkpoint.hub_id == f"facebook/{name}"
    assert re.fullmatch(r"[0-9a-f]{8}", checkpoint.sha256_head)
    assert checkpoint.url == f"https://dl.fbaipublicfiles.com/detr/{checkpoint.file_name}"
    assert checkpoint.dilation == ("dc5" in name) == ("dc5" in checkpoint.file_name)
    assert checkpoint.segmentation == ("panoptic" in name) == ("panoptic" in checkpoint.file_name)
    assert checkpoint.backbone.removeprefix("resnet") in name.split("-")
    assert f"r{checkpoint.backbone.removeprefix('resnet')}" in checkpoint.file_name.split("-")
    assert list(checkpoint.id2label) == list(range(250 if checkpoint.segmentation else 91))
    assert (checkpoint.label_ids_to_fuse is not None) == checkpoint.segmentation
    assert (checkpoint.published.panoptic_quality is not None) == checkpoint.segmentation
    assert (checkpoint.published.box_ap50 is not None) == (not checkpoint.segmentation)


def test_all_seven_are_here_under_the_names_of_torch_hub():
    assert [checkpoint.torch_hub_entry for checkpoint in DETRS] == [
        "detr_resnet50",
        "detr_resnet50_dc5",
        "detr_resnet101",
        "detr_resnet101_dc5",
        "detr_resnet50_panoptic",
        "detr_resnet50_dc5_panoptic",
        "detr_resnet101_panoptic",
    ]


@pytest.mark.parametrize("checkpoint", TABLES, ids=lambda checkpoint: checkpoint.name)
def test_facts_of_the_table_transformer_agree_with_each_other(checkpoint):
    finds_tables = "detection" in checkpoint.name
    assert checkpoint.hub_id == f"microsoft/{checkpoint.name}"
    assert checkpoint.url.startswith("https://huggingface.co/bsmock/")
    assert checkpoint.url.endswith(f"/resolve/main/{checkpoint.file_name}")
    assert checkpoint.sha256_head is None
    assert (len(checkpoint.id2label), checkpoint.num_queries) == ((2, 15) if finds_tables else (6, 125))
    assert ("v1.1" in checkpoint.name) == ("v1.1" in checkpoint.file_name) == (set(checkpoint.size) == {"longest_edge"})
    assert checkpoint.thing_names == list(checkpoint.class_names)


def test_up_detr_is_the_only_other():
    (other,) = set(CHECKPOINTS) - {checkpoint.name for checkpoint in [*DETRS, *TABLES]}
    checkpoint = CHECKPOINTS[other]
    assert (other, checkpoint.hub_id, checkpoint.url) == ("up-detr-resnet-50", None, None)
    assert checkpoint.id2label == COCO_NAMES


def test_slots_fit_the_classification_layers(golden_json):
    """The original's layer has one output more, for "no object"."""
    names = {
        "detr-r50": "detr-resnet-50",
        "detr-r50-panoptic": "detr-resnet-50-panoptic",
        "tatr-detection": "table-transformer-detection",
    }
    for variant, name in names.items():
        shapes = {row[0].removeprefix("detr."): row[1] for row in golden_json(f"{variant}.shapes.json")}
        assert shapes["class_embed.bias"] == [len(CHECKPOINTS[name].id2label) + 1]


def test_known_detections_lie_on_annotated_objects(shared_path):
    """Each known box overlaps an annotated object of its class well: the numbers have not been mistyped."""
    import torch

    from transformers_detr.model.boxes_detr import box_iou

    annotations = json.loads(shared_path("data", "coco_39769", "coco_annotations.txt").read_text())
    names = {COCO_NAMES[annotation["category_id"]] for annotation in annotations}
    for known in KNOWN_DETECTIONS_39769:
        assert known.name in names
        boxes = torch.tensor([a["bbox"] for a in annotations if COCO_NAMES[a["category_id"]] == known.name])
        boxes[:, 2:] += boxes[:, :2]
        assert box_iou(torch.tensor([known.box_xyxy_px]), boxes)[0].max() > 0.75
