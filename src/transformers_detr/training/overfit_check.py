"""Overfit check: can the model overfit eight training images? Tests data, model and settings together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import transformers

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.trainer import DetrTrainer

IMAGES = 8

STEPS = {"pretrained": 400, "fresh": 1500}
"""Maximum of steps for a pretrained and for a fresh model."""

OVERFITTED = 90
"""AP that passes the check and ends it."""

LEARNING = 30
"""AP of a model that learns, but slowly."""


@dataclass(frozen=True)
class OverfitResult:
    """Result of an overfit check.

    Attributes:
        ap: Best AP on the eight images, from 0 to 100; mask AP where the model has a mask head.
    """

    ap: float

    @property
    def verdict(self) -> Literal["passed", "slow", "failed"]:
        """Verdict: the model overfits the images, learns slowly, or does not learn."""
        return "passed" if self.ap >= OVERFITTED else "slow" if self.ap >= LEARNING else "failed"


def overfit(
    model: Any,
    processor: Any,
    dataset: DetectionDataset,
    arguments: dict[str, Any],
    steps: int,
    callbacks: Sequence[transformers.TrainerCallback] = (),
) -> OverfitResult:
    """Train on eight images without augmentation until the model detects their objects.

    Args:
        model: The model; trained in place.
        processor: Its image processor.
        dataset: Dataset with a split "train".
        arguments: Fields of `DetrTrainingArguments`; augmentation, averaging and weight decay are switched off.
        steps: Maximum of steps; the check ends earlier when AP reaches `OVERFITTED`.
        callbacks: Further callbacks of the trainer, such as a progress bar.

    Returns:
        The best AP on these images.
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
    all_callbacks = [_StopWhenOverfitted(score), *callbacks]
    trainer = DetrTrainer(model, DetrTrainingArguments(**settings), few, processor, callbacks=all_callbacks)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return OverfitResult(max((entry[score] for entry in trainer.state.log_history if score in entry), default=0.0))


class _StopWhenOverfitted(transformers.TrainerCallback):
    def __init__(self, score: str):
        self.score = score

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop when AP reaches `OVERFITTED`."""
        control.should_training_stop |= kwargs["metrics"][self.score] >= OVERFITTED
