"""A small generated dataset, a small detector for it, and what the two give."""

from __future__ import annotations

import pytest

from evaluation.scene_model import scene_detector
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import write_scenes

IMAGES = 11


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Folder of a COCO dataset of generated scenes of several sizes, with crowds; image and class ids begin at 0."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", IMAGES, seed=3)


@pytest.fixture(scope="session", name="scene_detector")
def shared_scene_detector():
    """Model and processor; the predictions depend on padding."""
    return scene_detector()


@pytest.fixture(scope="session")
def scene_records(scenes):
    return DetectionDataset.load(scenes).split("train")


@pytest.fixture(scope="session")
def scene_truth(scenes):
    return DetectionDataset.load(scenes).to_coco("train")
