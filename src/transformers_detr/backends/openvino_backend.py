"""OpenVINO backend: write and run `.xml` files with a `.bin` beside them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_detr.backends.exported_model import Engine, feed, fixed_size
from transformers_detr.backends.onnx_backend import onnx_file
from transformers_detr.backends.registry import Precision
from transformers_detr.backends.traced_graph import ExportSource
from transformers_detr.hub.loading import DeviceError

_DEVICE_GROUPS = {"AUTO", "MULTI", "HETERO"}
"""OpenVINO's names for choosing or combining devices."""


def export(source: ExportSource, path: Path, precision: Precision) -> None:
    """Write a model as OpenVINO's `.xml` with a `.bin` beside it, converted from its ONNX file.

    Args:
        source: The model.
        path: The `.xml` file.
        precision: "fp16" stores float16 weights, which halves the file; OpenVINO chooses what to compute in.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    import openvino

    # OpenVINO rounds the weights of the float32 graph itself, so that it can choose what to compute in.
    half = precision == "fp16"
    onnx = onnx_file(source, "fp32" if half else precision)
    source.progress(f"writing OpenVINO in {precision}")
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=half)


def load(path: Path, device: str) -> Engine:
    """Load a model with OpenVINO.

    Args:
        path: The `.xml` file, its `.bin` beside it.
        device: "cpu", or one of OpenVINO's names, in any case: "GPU", "GPU.1", "NPU", "AUTO", "AUTO:GPU,CPU".

    Raises:
        ImportError: OpenVINO is not installed.
        DeviceError: OpenVINO cannot use the device.
    """
    core = _core()
    name = device.upper()
    known = _DEVICE_GROUPS | {one for found in core.available_devices for one in (found, found.partition(".")[0])}
    if not set(re.split("[:,]", name)) <= known:
        found = ", ".join([*core.available_devices, "AUTO"])
        raise DeviceError(f"device {device!r} cannot be used: OpenVINO has {found}")
    # By default it computes below a model's precision wherever a device can.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
    if name == "CPU":
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    model = core.read_model(path)
    shape = model.input("pixel_values").get_partial_shape()
    compiled = core.compile_model(model, name, settings)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        found = compiled.create_infer_request().infer(feed(inputs))  # one request per call, for thread safety
        return {name: torch.from_numpy(found[name].copy()) for name in names}

    return Engine(run, fixed_size([side.get_length() if side.is_static else None for side in list(shape)[2:]]))


@cache
def _core() -> Any:
    """Return OpenVINO's core, one for the life of the process.

    Its CPU plugin gives the thread that loads it a stack for signals, and frees that memory when it is unloaded, in
    whichever thread that happens; the next signal then ends the process. It is therefore never unloaded.
    """
    import openvino

    return openvino.Core()
