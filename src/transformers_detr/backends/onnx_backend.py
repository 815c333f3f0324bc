"""ONNX Runtime backend: write and run `.onnx` files.

TensorRT and other runtimes can use these files too (`trtexec --onnx=model.onnx`, with `--minShapes`, `--optShapes`
and `--maxShapes`, or a file of a fixed size).
"""

from __future__ import annotations

import ast
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_detr.backends.exported_model import Engine, feed, fixed_size
from transformers_detr.backends.onnx_quantization import quantize_calibrated, quantize_weights
from transformers_detr.backends.registry import INPUTS, Precision
from transformers_detr.backends.traced_graph import ExportSource, dynamic_shapes, output_names
from transformers_detr.hub.loading import DeviceError

_NOT_LOCAL = "AzureExecutionProvider"
_SCOPES = "pkg.torch.onnx.name_scopes"


def export(source: ExportSource, path: Path, precision: Precision) -> None:
    """Write a model as one ONNX file, weights included.

    Args:
        source: The model.
        path: The `.onnx` file.
        precision: What the graph computes in; its inputs and outputs are float32.

    Raises:
        ImportError: `onnx`, `onnxscript` or, for "int8", `onnxruntime` is not installed.
    """
    shutil.copyfile(onnx_file(source, precision), path)


def onnx_file(source: ExportSource, precision: Precision) -> Path:
    """Return the ONNX file of a model and precision in the scratch folder of the export, written on first use."""
    path = source.scratch / f"{precision}.onnx"
    if path.exists():
        return path
    if precision != "int8":
        program = source.program(precision)
        source.progress(f"writing ONNX in {precision}")
        _write(program, output_names(source.model), path, source.fixed_size)
        return path
    float32 = onnx_file(source, "fp32")
    source.progress("rounding to 8 bits")
    if source.calibration is None:
        quantize_weights(float32, path)
    else:
        quantize_calibrated(float32, path, source.calibration())
    return path


def _write(program: Any, names: list[str], path: Path, size: tuple[int, int] | None) -> None:
    """Write a traced program; its free dimensions get names."""
    with warnings.catch_warnings():  # of torch's exporter, about itself
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(
            program,
            input_names=list(INPUTS),
            output_names=names,
            dynamic_shapes=dynamic_shapes(size),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if onnx is None:
        raise RuntimeError("torch.onnx.export returned no program")
    _name_by_module(onnx.model.graph)
    onnx.save(path)


def _name_by_module(graph: Any) -> None:
    """Name nodes after the modules they come from, and drop metadata that holds stack traces of this machine."""
    for number, node in enumerate(graph):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "graph")
        node.name = f"{module}/{node.op_type}_{number}"
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def load(path: Path, device: str) -> Engine:
    """Load a file with ONNX Runtime.

    Args:
        path: An `.onnx` file.
        device: "cpu", or what the installed ONNX Runtime was built for, such as "cuda" (`onnxruntime-gpu`), "coreml"
            or "dml" (`onnxruntime-directml`), with the number of a device after a colon ("cuda:1").

    Raises:
        ImportError: ONNX Runtime is not installed.
        DeviceError: The installed ONNX Runtime cannot use the device.
    """
    import onnxruntime

    kind, _, number = device.lower().partition(":")
    names = [name for name in onnxruntime.get_available_providers() if name != _NOT_LOCAL]
    providers = {name.removesuffix("ExecutionProvider").lower(): name for name in names}
    if kind not in providers or not (number or "0").isdecimal():
        raise DeviceError(f"device {device!r} cannot be used: the installed ONNX Runtime has {', '.join(providers)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    choice = {"device_id": number} if number and kind != "cpu" else {}
    session = onnxruntime.InferenceSession(path, options, providers=[(providers[kind], choice)])
    if providers[kind] not in session.get_providers():  # it would continue on the CPU
        raise DeviceError(f"device {device!r} cannot be used: ONNX Runtime supports it but finds no such device")
    shapes = {value.name: value.shape for value in session.get_inputs()}
    outputs = [output.name for output in session.get_outputs()]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        found = session.run(outputs, feed(inputs))
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return Engine(run, fixed_size(shapes["pixel_values"][2:]))
