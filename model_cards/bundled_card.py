"""Card of the bundled model, rendered from the metrics stored with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from transformers_detr.hub.bundled_model import FOLDER, MEASURED, NAME
from transformers_detr.hub.model_card import render_card
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor

TASK = "object-detection"

EVALUATE = f"detr evaluate --model {NAME} --data scenes/held --output evaluation"
"""Command that reproduces the metrics, on scenes of `detr scenes`."""


def bundled_card(measured: dict[str, Any] | None = None) -> str:
    """Return the card of the bundled model.

    Args:
        measured: Metrics in the format of the file `MEASURED`, by default that file.
    """
    values = json.loads(MEASURED.read_text(encoding="utf-8")) if measured is None else measured
    config = DetrConfig.from_pretrained(FOLDER)
    return render_card(
        "bundled_card.md.jinja",
        {
            "license": "apache-2.0",
            "pipeline_tag": TASK,
            "tags": ["detr", "vision", TASK],
            "model_name": NAME,
            "eval_results": [_eval_result(name, value) for name, value in values["held_out"].items()],
        },
        [Path(__file__).parent],
        title=NAME,
        task=TASK,
        repository=NAME,
        custom_code=False,
        config=config,
        processor=DetrImageProcessor.from_pretrained(FOLDER),
        class_names=[config.id2label[label] for label in sorted(config.id2label)],
        measured=values,
        evaluate=EVALUATE,
    )


def _eval_result(name: str, value: float) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        task_name="Object detection",
        dataset_type="generated-scenes",
        dataset_name="Generated scenes, series 3",
        dataset_split="held out",
        metric_type=f"box_{name.lower()}",
        metric_name=f"box {name}",
        metric_value=round(value, 2),
    )
