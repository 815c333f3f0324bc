"""From an exported folder to a model that can be called, or to an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers_detr.backends.engines import open_onnx, open_openvino, open_torch
from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.backends.layout import BACKENDS, PRECISIONS, Backend, Precision, exported_files
from transformers_detr.loading import LoadingError
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor

_OPENERS = {"onnx": open_onnx, "openvino": open_openvino, "torch": open_torch}
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
_SEGMENTATION = "DetrForSegmentation"


def open_exported(
    folder: str | Path,
    backend: Backend = "onnx",
    precision: Precision = "fp32",
    device: str = "cpu",
    architecture: str | None = None,
) -> tuple[ExportedModel, DetrImageProcessor]:
    """Open what `detr export` wrote.

    Args:
        folder: Its folder.
        backend: "onnx" (ONNX Runtime), "openvino" or "torch".
        precision: "fp32", "fp16" or "int8".
        device: "cpu", or what the engine knows besides.
        architecture: Class that the model must have been; "DetrForObjectDetection" takes both.

    Raises:
        LoadingError: The folder, its file for this backend and precision, or the engine is not there, or the model
            does not segment.
        ValueError: There is no such backend or precision, or the engine cannot use the device.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    folder = Path(folder).expanduser()
    path = _existing_file(folder, backend, precision)
    try:
        config: Any = DetrConfig.from_pretrained(folder)
        processor = DetrImageProcessor.from_pretrained(folder)
        engine = _OPENERS[backend](path, device)
    except ImportError as error:
        package = _PACKAGES[backend]
        raise LoadingError(f"{path}: {package} is not installed (pip install {package})") from error
    except (OSError, RuntimeError) as error:
        raise LoadingError(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if architecture == _SEGMENTATION and (config.architectures or [""])[0] != _SEGMENTATION:
        raise LoadingError(f"{folder}: this model detects, but does not segment")
    return ExportedModel(config, engine), processor


def _existing_file(folder: Path, backend: Backend, precision: Precision) -> Path:
    if not folder.is_dir():
        raise LoadingError(f"{folder}: there is no such folder; backends run what `detr export` wrote into one")
    files = exported_files(folder)
    if (backend, precision) not in files:
        there = ", ".join(f"{b} {p}" for b, p in files) or "none"
        raise LoadingError(
            f"{folder}: no export for backend {backend!r} in {precision} here (there: {there}); "
            f"make one with `detr export --format {backend}`"
        )
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise LoadingError(f"{folder}: {name} is missing")
    return files[backend, precision]
