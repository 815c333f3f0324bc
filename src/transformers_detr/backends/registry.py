"""What an exported folder holds and what its graphs take and give; the layout is that of transformers.js."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

Backend = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

INPUTS = ("pixel_values", "pixel_mask")
OUTPUTS = ("logits", "pred_boxes", "pred_masks")
"""In this order; the last for segmentation only."""

_STEMS = {"onnx": "onnx/model", "openvino": "openvino/openvino_model", "torch": "torch/model"}
_ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}


def model_file(folder: Path, backend: Backend, precision: Precision = "fp32") -> Path:
    """Where the graph of a backend and precision is."""
    return folder / f"{_STEMS[backend]}{_SUFFIXES[precision]}{_ENDINGS[backend]}"


def exported_files(folder: Path) -> dict[tuple[Backend, Precision], Path]:
    """The graphs that a folder holds."""
    files = {(b, p): model_file(folder, b, p) for b in BACKENDS for p in PRECISIONS}
    return {key: path for key, path in files.items() if path.is_file()}
