"""Load an exported folder, local or on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.backends.registry import (
    BACKENDS,
    PRECISIONS,
    REGISTRY,
    Backend,
    Precision,
    exported_files,
    model_file,
)
from transformers_detr.hub.architectures import read_config
from transformers_detr.hub.bundled_model import bundled_folder
from transformers_detr.hub.loading import DeviceError, LoadingError, download_files, is_path
from transformers_detr.model.image_processing_detr import DetrImageProcessor

_CONFIGURATIONS = ("config.json", "preprocessor_config.json")
_SEGMENTATION = "DetrForSegmentation"


def open_exported(
    name_or_folder: str | Path,
    backend: Backend = "onnx",
    precision: Precision = "fp32",
    device: str = "cpu",
    architecture: str | None = None,
    *,
    subfolder: str = "",
    **hub: Any,
) -> tuple[ExportedModel, DetrImageProcessor]:
    """Load what `export_model` wrote.

    Args:
        name_or_folder: Folder, or Hub id; only the needed files are downloaded.
        backend: "onnx" (ONNX Runtime), "openvino" or "torch".
        precision: "fp32", "fp16" or "int8".
        device: "cpu", or another device of the backend.
        architecture: Class of the exported model; "DetrForObjectDetection" takes both.
        subfolder: Where in the folder or repository the files are.
        **hub: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`; see
            `transformers_detr.hub.loading.load_pretrained`.

    Raises:
        LoadingError: The folder, its file for this backend and precision, or a package is missing, or the model does
            not segment.
        DeviceError: The backend cannot use the device.
        ValueError: There is no such backend or precision.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    name = bundled_folder(str(name_or_folder))
    folder = _local_folder(name, backend, precision, subfolder, hub)
    path = _existing_file(name, folder, backend, precision)
    try:
        config = read_config(folder)
        processor = DetrImageProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise LoadingError(f"{name}: {error}") from error
    try:
        engine = REGISTRY[backend].load(path, device)
    except ImportError as error:
        packages = " ".join(REGISTRY[backend].load_packages)
        raise LoadingError(f"{path}: {packages} is not installed: pip install {packages}") from error
    except DeviceError:
        raise
    except Exception as error:  # of a kind that depends on the backend
        raise LoadingError(f"{path}: cannot be loaded: {_reason(error)}") from error
    if architecture == _SEGMENTATION and (config.architectures or [""])[0] != _SEGMENTATION:
        raise LoadingError(f"{name}: this is a detection model; segmentation needs a model with a mask head")
    return ExportedModel(config, engine, _graph_files(path, backend)), processor


def _reason(error: Exception) -> str:
    """Return the informative line of a backend's error; OpenVINO puts source locations first."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return lines[0] if lines else type(error).__name__


def _local_folder(name: str, backend: Backend, precision: Precision, subfolder: str, hub: dict[str, Any]) -> Path:
    """Return the folder, or the downloaded one with the needed files of a repository."""
    if not is_path(name):
        graph = _graph_files(model_file(Path(subfolder), backend, precision), backend)
        files = [*(Path(subfolder, file) for file in _CONFIGURATIONS), *graph]
        return download_files(name, [file.as_posix() for file in files], **hub) / subfolder
    folder = Path(name).expanduser() / subfolder
    if not folder.is_dir():
        raise LoadingError(f"{folder}: no such folder; --backend needs a folder written by `detr export`")
    return folder


def _graph_files(path: Path, backend: Backend) -> list[Path]:
    """Return the graph and the file of its weights, if separate."""
    suffix = REGISTRY[backend].weights_suffix
    return [path, path.with_suffix(suffix)] if suffix else [path]


def _existing_file(name: str, folder: Path, backend: Backend, precision: Precision) -> Path:
    path = model_file(folder, backend, precision)
    if not path.is_file():
        there = ", ".join(f"{b} {p}" for b, p in exported_files(folder)) or "none"
        seen = f" (there: {there})" if is_path(name) else ""  # only the needed files of a repository are downloaded
        raise LoadingError(
            f"{name}: no export for backend {backend!r} in {precision}{seen}; "
            f"create one with `detr export --format {backend}`"
        )
    for file in _CONFIGURATIONS:
        if not (folder / file).is_file():
            raise LoadingError(f"{name}: {file} is missing")
    return path
