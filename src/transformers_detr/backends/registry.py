"""Registry of the backends that run exported models, and the layout of an exported folder (that of transformers.js).

To add a backend: write `<name>_backend.py` with `export` and `load`, add a row here and its name to `Backend`, and name
its packages in an extra of `pyproject.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

Backend = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

INPUTS = ("pixel_values", "pixel_mask")
OUTPUTS = ("logits", "pred_boxes", "pred_masks")
"""Outputs of a graph, in this order; `pred_masks` for segmentation only."""

_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}


@dataclass(frozen=True)
class BackendEntry:
    """One row of the registry.

    Attributes:
        title: Name of the runtime, for texts.
        module: File in this folder with `export(source, path, precision)` and `load(path, device)`.
        file: Path of a graph in the exported folder, with `{}` for the suffix of its precision.
        precisions: Precisions that can be exported.
        load_packages: Packages needed to run a graph.
        export_packages: Packages needed to write one.
        weights_suffix: Suffix of the file of weights beside the graph; None if the graph holds them.
    """

    title: str
    module: str
    file: str
    precisions: tuple[Precision, ...]
    load_packages: tuple[str, ...]
    export_packages: tuple[str, ...]
    weights_suffix: str | None = None

    def export(self, source: Any, path: Path, precision: Precision) -> None:
        """Write a graph; see the `export` of a backend's file."""
        import_module(f"{__package__}.{self.module}").export(source, path, precision)

    def load(self, path: Path, device: str) -> Any:
        """Load a graph; see the `load` of a backend's file."""
        return import_module(f"{__package__}.{self.module}").load(path, device)


REGISTRY: dict[Backend, BackendEntry] = {
    "onnx": BackendEntry(
        title="ONNX Runtime",
        module="onnx_backend",
        file="onnx/model{}.onnx",
        precisions=("fp32", "fp16", "int8"),
        load_packages=("onnxruntime",),
        export_packages=("onnx", "onnxscript"),
    ),
    "openvino": BackendEntry(
        title="OpenVINO",
        module="openvino_backend",
        file="openvino/openvino_model{}.xml",
        precisions=("fp32", "fp16", "int8"),
        load_packages=("openvino",),
        export_packages=("onnx", "onnxscript", "openvino"),
        weights_suffix=".bin",
    ),
    "torch": BackendEntry(
        title="PyTorch program",
        module="torch_export_backend",
        file="torch/model{}.pt2",
        precisions=("fp32",),
        load_packages=("torch",),
        export_packages=("torch",),
    ),
}


def model_file(folder: Path, backend: Backend, precision: Precision = "fp32") -> Path:
    """Path of the graph of a backend and precision."""
    return folder / REGISTRY[backend].file.format(_SUFFIXES[precision])


def exported_files(folder: Path) -> dict[tuple[Backend, Precision], Path]:
    """Graphs in a folder, by backend and precision."""
    files = {(b, p): model_file(folder, b, p) for b in BACKENDS for p in PRECISIONS}
    return {key: path for key, path in files.items() if path.is_file()}


def missing_packages(backend: Backend, precisions: Sequence[Precision] = ("fp32",)) -> list[str]:
    """Packages that exporting to a backend and running the graphs needs, and that are not installed."""
    entry = REGISTRY[backend]
    quantizer = ("onnxruntime",) if "int8" in precisions else ()
    needed = dict.fromkeys((*entry.export_packages, *entry.load_packages, *quantizer))
    return [name for name in needed if find_spec(name) is None]


def titles() -> str:
    """Backends with the names of their runtimes, for help texts: "onnx (ONNX Runtime), …"."""
    return ", ".join(f"{name} ({entry.title})" for name, entry in REGISTRY.items())
