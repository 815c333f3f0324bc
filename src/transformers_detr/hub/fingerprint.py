"""Verification numbers: what a model answers to a made-up picture, kept in a file beside its weights.

Whoever loads the folder, anywhere and with whatever code, can tell whether it still gives these numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel

from transformers_detr.hub.loading import LoadingError, load_pretrained
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

RECORD = "verification.json"
TOLERANCES = {"logits": 1e-3, "pred_boxes": 5e-5, "pred_masks": 5e-3}
"""Largest difference allowed by output: a few times what the order of float32 sums makes."""

PICTURE_SIZE = (192, 256)
_MOST_VALUES = 256
_MODELS: dict[str, type[DetrPreTrainedModel]] = {
    "DetrForObjectDetection": DetrForObjectDetection,
    "DetrForSegmentation": DetrForSegmentation,
}

Numbers = dict[str, dict[str, Any]]
"""Output → its `shape`, and as `values` every so many-th of its numbers."""


class VerificationError(ValueError):
    """A model does not give the numbers that it should; the message says which and by how much."""


def load_for_verification(folder: Path) -> tuple[DetrPreTrainedModel, DetrImageProcessor]:
    """Load what a folder holds, in float32.

    Raises:
        LoadingError: It cannot be loaded, or has no architecture with numbers to verify.
    """
    architecture = architecture_of(folder)
    if architecture not in _MODELS:
        raise LoadingError(f"{folder}: architectures must begin with one of {', '.join(_MODELS)}, got {architecture}")
    model, processor = load_pretrained(_MODELS[architecture], folder, dtype=torch.float32)
    return model.eval(), processor


def architecture_of(folder: Path) -> str | None:
    """First architecture in a folder's `config.json`; None if there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise LoadingError(f"{folder}: config.json is missing")
    architectures = json.loads(path.read_text(encoding="utf-8")).get("architectures") or [None]
    return architectures[0] if architectures else None


def verification_numbers(model: PreTrainedModel, processor: DetrImageProcessor) -> Numbers:
    """What a model answers to the made-up picture, which the processor normalizes but does not resize.

    Args:
        model: Of this package or of stock transformers; in evaluation mode, in float32, on the CPU.
        processor: Ours.

    Raises:
        VerificationError: The model answers with something that is no number.
    """
    inputs = processor(made_up_picture(), do_resize=False, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    found = {name: outputs[name].flatten() for name in TOLERANCES if outputs.get(name) is not None}
    for name, numbers in found.items():
        if not numbers.isfinite().all():
            raise VerificationError(f"{name} are not all finite: the weights hold NaN, or numbers that are too large")
    return {
        name: {
            "shape": list(outputs[name].shape),
            "values": numbers[:: -(-len(numbers) // _MOST_VALUES)].tolist(),
        }
        for name, numbers in found.items()
    }


def stock_numbers(folder: Path, processor: DetrImageProcessor) -> Numbers:
    """The numbers of stock transformers with a folder's weights."""
    stock: Any = getattr(transformers, str(architecture_of(folder)))
    return verification_numbers(stock.from_pretrained(folder, dtype=torch.float32).eval(), processor)


def write_record(folder: Path, numbers: Numbers) -> None:
    """Keep numbers in a folder."""
    (folder / RECORD).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> Numbers | None:
    """The numbers kept in a folder; None if there are none."""
    path = folder / RECORD
    if not path.is_file():
        return None
    numbers: Numbers = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def compare_numbers(expected: Numbers, found: Numbers) -> dict[str, float]:
    """Compare numbers.

    Returns:
        Largest difference by output.

    Raises:
        VerificationError: A difference is above `TOLERANCES` or not a number, or an output is missing or of another
            shape.
    """
    differences = {}
    for name, wanted in expected.items():
        shape = found.get(name, {}).get("shape")
        if shape != wanted["shape"]:
            raise VerificationError(f"{name} should be of shape {wanted['shape']}, got {shape}")
        difference = float(np.abs(np.subtract(wanted["values"], found[name]["values"])).max())
        if not difference <= TOLERANCES[name]:
            raise VerificationError(f"{name} differ by {difference:.1e}, {TOLERANCES[name]:.0e} is allowed")
        differences[name] = difference
    return differences


def made_up_picture() -> Image.Image:
    """A picture that is the same on every machine: whole numbers only, ramps and a pattern."""
    y, x = np.mgrid[: PICTURE_SIZE[0], : PICTURE_SIZE[1]]
    channels = [((3 * (c + 1) * x + 2 * (3 - c) * y) ^ (x * y >> 4)) & 255 for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))
