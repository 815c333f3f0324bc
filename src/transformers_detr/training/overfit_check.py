"""A test of the whole pipeline: can the model learn eight images by heart?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import transformers

from transformers_detr.data.records import DetectionDataset
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.trainer import DetrTrainer

IMAGES = 8

LEARNED = 0.9
"""AP at which the images are known by heart, and the test ends."""

LEARNING = 0.3
"""AP that shows that the pipeline can learn, if slowly."""


def overfit(
    model: Any,
    processor: Any,
    dataset: DetectionDataset,
    arguments: dict[str, Any],
    steps: int,
    callbacks: Sequence[transformers.TrainerCallback] = (),
) -> float:
    """Train on eight images, not augmented, until the model finds their objects again.

    Args:
        model: The model; trained in place.
        processor: Its image processor.
        dataset: Dataset with a split "train".
        arguments: Fields of `DetrTrainingArguments`; what would hide learning is switched off.
        steps: Most steps; it ends earlier when AP reaches `LEARNED`.
        callbacks: Told of the steps, such as a progress bar.

    Returns:
        The best AP on these images; of masks, if the model has them.
    """
    images = sorted(dataset.split("train"), key=lambda image: not image.objects)[:IMAGES]
    few = replace(dataset, splits={"train": tuple(images), "val": tuple(images)})
    settings = arguments | {
        "augmentation": "none",
        "edges": [max(arguments["edges"])],
        "ema_decay": 0.0,
        "weight_decay": 0.0,
        "max_steps": steps,
        "eval_strategy": "steps",
        "eval_steps": max(steps // 20, 1),
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "lr_scheduler_type": "cosine",
        "report_to": "none",
    }
    score = "eval_mask_AP" if isinstance(model, DetrForSegmentation) else "eval_AP"
    told = [_EndWhenLearned(score), *callbacks]
    trainer = DetrTrainer(model, DetrTrainingArguments(**settings), few, processor, callbacks=told)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return max((entry[score] for entry in trainer.state.log_history if score in entry), default=0.0)


class _EndWhenLearned(transformers.TrainerCallback):
    def __init__(self, score: str):
        self.score = score

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """End when the images are known."""
        control.should_training_stop |= metrics[self.score] >= LEARNED
