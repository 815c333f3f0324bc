"""DetrTrainingArguments: `transformers.TrainingArguments` with DETR's defaults and additional fields."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers.utils import is_torch_xla_available

from transformers_detr.training.augmentation import PRESETS
from transformers_detr.training.model_surgery import PARTS


@dataclass
class DetrTrainingArguments(transformers.TrainingArguments):
    """Training arguments: every field of `transformers.TrainingArguments`, and DETR's.

    Defaults are the paper's optimizer (AdamW, learning rate 1e-4, a tenth of it for the backbone, weight decay 1e-4,
    gradients clipped at 0.1) and a cosine schedule (`lr_drop` gives the paper's). The model is evaluated after every
    epoch; the AP selects the best checkpoint.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    max_grad_norm: float = 0.1
    lr_scheduler_type: str = "cosine"
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "eval_AP"
    greater_is_better: bool | None = True
    logging_steps: float = 50
    remove_unused_columns: bool = False
    ddp_find_unused_parameters: bool | None = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])

    lr_drop: float | None = field(
        default=None,
        metadata={"help": "Drop the learning rate to a tenth after this fraction of the steps, as in the paper."},
    )
    lr_gamma: float | None = field(
        default=None, metadata={"help": "Multiply the learning rate by this after each epoch."}
    )
    backbone_lr_factor: float = field(
        default=0.1, metadata={"help": "Learning rate of the backbone, relative to the rest."}
    )
    train_whole_backbone: bool = field(
        default=False,
        metadata={"help": "Also train stem and first stage: for fresh backbones, or images unlike photos."},
    )
    train_batch_norm: bool = field(
        default=False, metadata={"help": "Also train batch norms, for backbones without pretrained weights."}
    )
    freeze: list[str] = field(default_factory=list, metadata={"help": f"Parts to freeze: {', '.join(PARTS)}."})
    lora_rank: int = field(
        default=0, metadata={"help": "Train LoRA adapters of this rank instead of the transformer's weights; 0: none."}
    )
    class_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "Weight of classes, by name or id, in the classification loss; 1 for those not named."},
    )
    no_object_weight: float | None = field(
        default=None, metadata={"help": "Weight of “no object” in the classification loss; default: the model's."}
    )
    masks: bool = field(default=False, metadata={"help": "Train masks; the model must have a mask head."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this number of evaluations without a better AP."}
    )
    ema_decay: float = field(default=0.0, metadata={"help": "Average the weights with this decay; 0: no average."})
    query_groups: int = field(default=1, metadata={"help": "Groups of queries matched independently while training."})
    token_weight: float = field(default=0.0, metadata={"help": "Weight of the supervision of encoded tokens."})
    tokens_first: float = field(
        default=0.0, metadata={"help": "Fraction of the steps that train encoded tokens alone, before the queries."}
    )
    anchored_start: bool = field(
        default=False, metadata={"help": "Initialize a fresh model so that each query attends around its own anchor."}
    )
    augmentation: str = field(default="paper", metadata={"help": f"One of {', '.join(PRESETS)}."})
    edges: list[int] = field(
        default_factory=lambda: list(range(480, 801, 32)),
        metadata={"help": "Shorter sides of training images; one is drawn for each batch."},
    )
    longest_edge: int = field(default=1333, metadata={"help": "Maximum of the longer side of training images."})

    def __post_init__(self) -> None:
        """Check DETR's fields, then those of transformers."""
        self.class_weights = _read_class_weights(self.class_weights)
        if self.no_object_weight is not None and self.no_object_weight < 0:
            raise ValueError(f"no_object_weight must be at least 0, got {self.no_object_weight}")
        if self.augmentation not in PRESETS:
            raise ValueError(f"augmentation must be one of {', '.join(PRESETS)}, got {self.augmentation!r}")
        if not self.edges or min(self.edges) < 1:
            raise ValueError(f"edges must be positive lengths, got {self.edges}")
        if self.lr_gamma is not None and not 0 < self.lr_gamma <= 1:
            raise ValueError(f"lr_gamma must be above 0 and at most 1, got {self.lr_gamma}")
        if self.lr_gamma is not None and self.lr_drop is not None:
            raise ValueError("lr_gamma and lr_drop are two schedules: give one of them")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if not 0 <= self.tokens_first < 1:
            raise ValueError(f"tokens_first must be in [0, 1), got {self.tokens_first}")
        if self.tokens_first and not self.token_weight:
            raise ValueError("tokens_first needs a token_weight above 0: tokens are not trained without one")
        if not (torch.accelerator.is_available() or is_torch_xla_available()):
            self.use_cpu = True  # else processes would not find each other, and bfloat16 would be refused
        super().__post_init__()


def _read_class_weights(given: Any) -> dict[str, float] | None:
    """Read weights by class; from a command line of `HfArgumentParser` they come as JSON."""
    try:
        weights = json.loads(given) if isinstance(given, str) else given
        read = None if weights is None else {str(name): float(weight) for name, weight in weights.items()}
    except (ValueError, TypeError, AttributeError):
        read = {"": -1.0}
    if read is not None and not all(0 <= weight < float("inf") for weight in read.values()):
        raise ValueError(f"class_weights must be numbers, at least 0, by class name or id, got {given!r}")
    return read
