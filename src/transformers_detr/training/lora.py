"""LoRA with peft: train low-rank adapters instead of the transformer's weights."""

from __future__ import annotations

from typing import Any

TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
"""Layers of encoder and decoder that get adapters."""

HEADS = ["class_labels_classifier", "bbox_predictor", "bbox_attention", "mask_head"]
"""Layers that are trained in full."""


def add_lora(model: Any, rank: int) -> Any:
    """Freeze a detector except its heads and add LoRA adapters to its transformer.

    Args:
        model: A `DetrForObjectDetection`.
        rank: Rank of the adapters.

    Returns:
        peft's wrapper of the model; saving a checkpoint merges the adapters into plain weights.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install peft") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, modules_to_save=HEADS)
    return get_peft_model(model, config)
