"""Fingerprint of a model: sampled outputs for a synthetic image, stored in a file beside the weights.

The fingerprint shows whether a folder still gives the same outputs on another machine or with other code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from transformers_detr.hub.architectures import ARCHITECTURES
from transformers_detr.hub.loading import LoadingError, load_pretrained
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

FINGERPRINT_FILE = "verification.json"
TOLERANCES = {"logits": 1e-3, "pred_boxes": 5e-5, "pred_masks": 5e-3}
"""Largest difference allowed per output: a few times the rounding error of float32 sums."""

IMAGE_SIZE = (192, 256)
_MOST_VALUES = 256

Fingerprint = dict[str, dict[str, Any]]
"""`shape` and sampled `values` of each output."""


class FingerprintError(ValueError):
    """A model has another fingerprint than expected; the message says which output differs and by how much."""


def load_for_fingerprint(folder: Path) -> tuple[DetrPreTrainedModel, DetrImageProcessor]:
    """Load the model and processor of a folder in float32.

    Raises:
        LoadingError: The folder cannot be loaded, or its architecture has no fingerprint.
    """
    architecture = architecture_of(folder)
    if architecture not in ARCHITECTURES:
        raise LoadingError(
            f"{folder}: architectures must begin with one of {', '.join(ARCHITECTURES)}, got {architecture}"
        )
    model, processor = load_pretrained(ARCHITECTURES[architecture], folder, dtype=torch.float32)
    return model.eval(), processor


def architecture_of(folder: Path) -> str | None:
    """First architecture in a folder's `config.json`; None if there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise LoadingError(f"{folder}: config.json is missing")
    architectures = json.loads(path.read_text(encoding="utf-8")).get("architectures") or [None]
    return architectures[0] if architectures else None


def compute_fingerprint(model: PreTrainedModel, processor: DetrImageProcessor) -> Fingerprint:
    """Compute the fingerprint on the synthetic image, which the processor normalizes but does not resize.

    Args:
        model: Model of this package or of stock Transformers; in evaluation mode, in float32, on the CPU.
        processor: Image processor of this package.

    Raises:
        FingerprintError: An output is NaN or infinite.
    """
    inputs = processor(synthetic_image(processor.num_channels), do_resize=False, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    found = {name: outputs[name].flatten() for name in TOLERANCES if outputs.get(name) is not None}
    for name, numbers in found.items():
        if not numbers.isfinite().all():
            raise FingerprintError(f"{name} has non-finite values: weights are NaN or too large")
    return {
        name: {
            "shape": list(outputs[name].shape),
            "values": numbers[:: -(-len(numbers) // _MOST_VALUES)].tolist(),
        }
        for name, numbers in found.items()
    }


def stock_fingerprint(folder: Path, processor: DetrImageProcessor) -> Fingerprint:
    """Compute the fingerprint of stock Transformers with the weights of a folder."""
    stock: Any = getattr(transformers, str(architecture_of(folder)))
    return compute_fingerprint(stock.from_pretrained(folder, dtype=torch.float32).eval(), processor)


def write_fingerprint(folder: Path, numbers: Fingerprint) -> None:
    """Write the fingerprint into a folder."""
    (folder / FINGERPRINT_FILE).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """Return the fingerprint stored in a folder; None if there is none."""
    path = folder / FINGERPRINT_FILE
    if not path.is_file():
        return None
    numbers: Fingerprint = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def compare_fingerprints(expected: Fingerprint, found: Fingerprint) -> dict[str, float]:
    """Compare fingerprints.

    Returns:
        Largest difference by output.

    Raises:
        FingerprintError: A difference exceeds `TOLERANCES` or is NaN, or an output is missing or has another shape.
    """
    differences = {}
    for name, wanted in expected.items():
        shape = found.get(name, {}).get("shape")
        if shape != wanted["shape"]:
            raise FingerprintError(f"{name} should be of shape {wanted['shape']}, got {shape}")
        difference = float(np.abs(np.subtract(wanted["values"], found[name]["values"])).max())
        if not difference <= TOLERANCES[name]:
            raise FingerprintError(f"{name} differ by {difference:.1e}, {TOLERANCES[name]:.0e} is allowed")
        differences[name] = difference
    return differences


def synthetic_image(num_channels: int = 3) -> np.ndarray[Any, Any]:
    """Return an image `(H, W, C)` of ramps and a pattern, in integer arithmetic, the same on every machine."""
    y, x = np.mgrid[: IMAGE_SIZE[0], : IMAGE_SIZE[1]]
    channels = [((3 * (c + 1) * x + 2 * (3 - c) * y) ^ (x * y >> 4)) & 255 for c in range(num_channels)]
    return np.stack(channels, -1).astype(np.uint8)
