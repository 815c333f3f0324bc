"""Files of a model folder that belong to the model, and so are uploaded or served; all others stay where they are."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
TORCH_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")
OTHERS = (
    "config.json",
    "preprocessor_config.json",
    "verification.json",
    "README.md",
    "LICENSE*",
    "*.onnx",
    "onnx/*.onnx",
    "onnx/*.onnx_data",
    "onnx/*.onnx.data",
    "torch/*.pt2",
    "openvino/*.xml",
    "openvino/*.bin",
    "export_report.json",
    "export_report.md",
    "evaluation/metrics.json",
    "evaluation/model_index.json",
    "evaluation/*.csv",
)
"""Files beside the weights: configurations, card, exports, results of `detr evaluate` in `evaluation/`."""


def is_weights(path: str) -> bool:
    """Return whether a file is a weight file, by its name."""
    return any(fnmatch(path, pattern) for pattern in SAFE_WEIGHTS + TORCH_WEIGHTS)


def model_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files that belong to the model, and of the others, such as checkpoints and logs.

    PyTorch weights are among the others where the same are there as safetensors.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    safe = any(fnmatch(name, pattern) for name in names for pattern in SAFE_WEIGHTS)
    patterns = (SAFE_WEIGHTS if safe else TORCH_WEIGHTS) + OTHERS
    belongs = {name: _matches(name, patterns) and "/." not in f"/{name}" for name in names}
    return [name for name in names if belongs[name]], [name for name in names if not belongs[name]]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a name matches, folder by folder: `*` does not cross a slash."""
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in patterns)
