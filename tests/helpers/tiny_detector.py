"""A detector small enough for tests, with random weights that make it sure of what it sees."""

from pathlib import Path
from typing import Any

import torch

from transformers_detr import DetrForObjectDetection, DetrImageProcessor
from transformers_detr.inference.detector import Detector

NAMES = {0: "cat", 1: "Möwe", 2: "椅子"}


def tiny_detector(kind: type[DetrForObjectDetection] = DetrForObjectDetection, **config: Any) -> Detector:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "backbone": "resnet18",
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_queries": 12,
        "id2label": NAMES,
        "label2id": {name: label for label, name in NAMES.items()},
    }
    model = kind(kind.config_class(**{**values, **config}))
    with torch.no_grad():
        model.class_labels_classifier.weight *= 30
        model.class_labels_classifier.bias[-1] -= 4
        model.get_parameter("bbox_predictor.layers.2.weight").mul_(30)
        model.model.query_position_embeddings.weight *= 10
    channels = model.config.num_channels
    statistics = {} if channels == 3 else {"image_mean": [0.5] * channels, "image_std": [0.25] * channels}
    return Detector(model.eval(), DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}, **statistics))


def save(detector: Any, folder: Path) -> Path:
    detector.model.save_pretrained(folder)
    detector.image_processor.save_pretrained(folder)
    return folder
