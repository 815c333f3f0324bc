"""A few scenes, and a model small enough to train in a test."""

from __future__ import annotations

import pytest
import torch

from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import write_scenes
from transformers_detr.training.arguments import DetrTrainingArguments

TINY = {
    "backbone": "test_resnet",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "dropout": 0.1,
    "auxiliary_loss": True,
}


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    """A COCO dataset of generated scenes: 10 to train on, 4 for validation."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "train", 10, seed=1)
    write_scenes(folder / "val", 4, seed=2)
    return folder


@pytest.fixture(scope="session")
def scenes(scenes_folder):
    """The same, opened."""
    return DetectionDataset.load(scenes_folder)


@pytest.fixture
def tiny_model():
    """Function `(*class_names, **changes) -> model`, by default with eight classes, always with the same weights."""

    def build(*class_names, **changes):
        torch.manual_seed(0)
        labels = dict(enumerate(class_names or (f"class {label}" for label in range(8))))
        names = {"id2label": labels, "label2id": {name: label for label, name in labels.items()}}
        return DetrForObjectDetection(DetrConfig(**{**TINY, **names, **changes}))

    return build


@pytest.fixture
def processor():
    """Images of 64 pixels."""
    return DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})


@pytest.fixture
def arguments(tmp_path):
    """Function `(**changes) -> DetrTrainingArguments` for a few quick steps on the CPU."""

    def build(**changes):
        values = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "num_train_epochs": 1,
            "edges": [48, 64],
            "longest_edge": 96,
            "train_whole_backbone": True,
            "logging_steps": 1,
        }
        return DetrTrainingArguments(**{**values, **changes})

    return build
