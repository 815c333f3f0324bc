"""DETR, End-to-End Object Detection with Transformers, for Hugging Face Transformers.

Importing this package registers nothing and loads nothing beyond what a name asks for; see `use_for_auto`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that defines it; loaded when the name is first used.
_HOMES = {
    "DetectionDataset": "data.detection_dataset",
    "Detections": "inference.detections",
    "Detector": "inference.detector",
    "DetrConfig": "model.configuration_detr",
    "DetrForObjectDetection": "model.modeling_detr",
    "DetrForSegmentation": "model.modeling_segmentation_detr",
    "DetrImageProcessor": "model.image_processing_detr",
    "DetrModel": "model.modeling_detr",
    "DetrTrainer": "training.trainer",
    "DetrTrainingArguments": "training.arguments",
    "Segmenter": "inference.detector",
    "Segments": "inference.segments",
    "TableTransformerConfig": "model.configuration_detr",
    "TableTransformerForObjectDetection": "model.modeling_table_transformer_detr",
    "TableTransformerModel": "model.modeling_table_transformer_detr",
    "check_dataset": "data.check_workflow",
    "evaluate": "evaluation.evaluation_workflow",
    "explain": "explanation.explanation",
    "export_model": "export.export_workflow",
    "predict_to_folder": "inference.image_run",
    "train": "training.training_workflow",
    "use_for_auto": "hub.auto_classes",
}

__all__ = [
    "DetectionDataset",
    "Detections",
    "Detector",
    "DetrConfig",
    "DetrForObjectDetection",
    "DetrForSegmentation",
    "DetrImageProcessor",
    "DetrModel",
    "DetrTrainer",
    "DetrTrainingArguments",
    "Segmenter",
    "Segments",
    "TableTransformerConfig",
    "TableTransformerForObjectDetection",
    "TableTransformerModel",
    "check_dataset",
    "evaluate",
    "explain",
    "export_model",
    "predict_to_folder",
    "train",
    "use_for_auto",
]

if TYPE_CHECKING:
    from transformers_detr.data.check_workflow import check_dataset
    from transformers_detr.data.detection_dataset import DetectionDataset
    from transformers_detr.evaluation.evaluation_workflow import evaluate
    from transformers_detr.explanation.explanation import explain
    from transformers_detr.export.export_workflow import export_model
    from transformers_detr.hub.auto_classes import use_for_auto
    from transformers_detr.inference.detections import Detections
    from transformers_detr.inference.detector import Detector, Segmenter
    from transformers_detr.inference.image_run import predict_to_folder
    from transformers_detr.inference.segments import Segments
    from transformers_detr.model.configuration_detr import DetrConfig, TableTransformerConfig
    from transformers_detr.model.image_processing_detr import DetrImageProcessor
    from transformers_detr.model.modeling_detr import DetrForObjectDetection, DetrModel
    from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
    from transformers_detr.model.modeling_table_transformer_detr import (
        TableTransformerForObjectDetection,
        TableTransformerModel,
    )
    from transformers_detr.training.arguments import DetrTrainingArguments
    from transformers_detr.training.trainer import DetrTrainer
    from transformers_detr.training.training_workflow import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
