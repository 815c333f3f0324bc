"""The card of the bundled model; every number comes from what was stored when it was made."""

from __future__ import annotations

import json
from typing import Any

from huggingface_hub import EvalResult

from transformers_detr.hub.bundled_model import FOLDER, MEASURED, NAME
from transformers_detr.hub.card_rendering import render
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor

TASK = "object-detection"

EVALUATE = f"detr evaluate --model {NAME} --data scenes/held --output evaluation"
"""The command that gives the numbers again, after that which paints the scenes."""


def bundled_card(measured: dict[str, Any] | None = None) -> str:
    """Return the card of the bundled model.

    Args:
        measured: What was measured, as `MEASURED` holds it; if not given, that file.
    """
    values = json.loads(MEASURED.read_text(encoding="utf-8")) if measured is None else measured
    config = DetrConfig.from_pretrained(FOLDER)
    return render(
        "bundled.md.jinja",
        {
            "license": "apache-2.0",
            "pipeline_tag": TASK,
            "tags": ["detr", "vision", TASK],
            "model_name": NAME,
            "eval_results": [_eval_result(name, value) for name, value in values["held_out"].items()],
        },
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
        metric_value=round(100 * value, 2),
    )
