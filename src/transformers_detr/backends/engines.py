"""The engines that run exported files: ONNX Runtime, OpenVINO, and PyTorch without this package's model code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_detr.backends.exported_model import Engine
from transformers_detr.backends.registry import INPUTS, OUTPUTS

_ELSEWHERE = "AzureExecutionProvider"
_SEVERAL = {"AUTO", "MULTI", "HETERO"}
"""What OpenVINO calls its ways to use one or several of the devices that it finds."""


class DeviceError(ValueError):
    """An engine cannot use the device that was asked for; the message names those that it has."""


def open_onnx(path: Path, device: str) -> Engine:
    """Open a file with ONNX Runtime.

    Args:
        path: An `.onnx` file.
        device: "cpu", or what the installed ONNX Runtime was built for, such as "cuda" (`onnxruntime-gpu`), "coreml"
            or "dml" (`onnxruntime-directml`), the number of one behind a colon.

    Raises:
        ImportError: ONNX Runtime is not installed.
        DeviceError: The installed one cannot use the device.
    """
    import onnxruntime

    kind, _, number = device.lower().partition(":")
    names = [name for name in onnxruntime.get_available_providers() if name != _ELSEWHERE]
    providers = {name.removesuffix("ExecutionProvider").lower(): name for name in names}
    if kind not in providers or not (number or "0").isdecimal():
        raise DeviceError(f"device {device!r} cannot be used: the installed ONNX Runtime has {', '.join(providers)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    choice = {"device_id": number} if number and kind != "cpu" else {}
    session = onnxruntime.InferenceSession(path, options, providers=[(providers[kind], choice)])
    if providers[kind] not in session.get_providers():  # it would go on, on the CPU
        raise DeviceError(f"device {device!r} cannot be used: ONNX Runtime is built for it, but finds none")
    shapes = {value.name: value.shape for value in session.get_inputs()}
    outputs = [output.name for output in session.get_outputs()]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        found = session.run(outputs, _feed(inputs))
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return Engine(run, _fixed(shapes["pixel_values"][2:]))


def open_openvino(path: Path, device: str) -> Engine:
    """Open a model with OpenVINO.

    Args:
        path: The `.xml` file, its `.bin` beside it.
        device: "cpu", or as OpenVINO calls it: "GPU", "GPU.1", "NPU", "AUTO", "AUTO:GPU,CPU"; in any case.

    Raises:
        ImportError: OpenVINO is not installed.
        DeviceError: It cannot use the device.
    """
    core = _openvino()
    name = device.upper()
    known = _SEVERAL | {device for found in core.available_devices for device in (found, found.partition(".")[0])}
    if not set(re.split("[:,]", name)) <= known:
        found = ", ".join([*core.available_devices, "AUTO"])
        raise DeviceError(f"device {device!r} cannot be used: OpenVINO has {found}")
    # Of itself, it computes in less than a model's precision wherever a device can.
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
    if name == "CPU":
        settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    model = core.read_model(path)
    shape = model.input("pixel_values").get_partial_shape()
    compiled = core.compile_model(model, name, settings)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        found = compiled.create_infer_request().infer(
            _feed(inputs)
        )  # a request of its own, so that threads do not meet
        return {name: torch.from_numpy(found[name].copy()) for name in names}

    return Engine(run, _fixed([side.get_length() if side.is_static else None for side in list(shape)[2:]]))


@cache
def _openvino() -> Any:
    """OpenVINO, one for the life of the process.

    Its CPU plugin gives the thread that loads it a stack for signals, and takes the memory away when it is unloaded, in
    whichever thread that happens; the next signal then ends the process. It is therefore never unloaded.
    """
    import openvino

    return openvino.Core()


def open_torch(path: Path, device: str) -> Engine:
    """Open a program of `torch.export`.

    Args:
        path: A `.pt2` file.
        device: "cpu": a program stays where it was traced.

    Raises:
        DeviceError: Another device is asked for.
    """
    if device != "cpu":
        raise DeviceError(
            f"device {device!r} cannot be used: exported programs are for the cpu; use the model's weights"
        )
    program = torch.export.load(path)
    module = program.module()
    images = next(node for node in program.graph.nodes if node.name == "pixel_values").meta["val"]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            return dict(zip(OUTPUTS, module(*inputs), strict=False))

    return Engine(run, _fixed(images.shape[2:]))


def _feed(inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    return {name: value.contiguous().numpy() for name, value in zip(INPUTS, inputs, strict=True)}


def _fixed(size: Any) -> tuple[int, int] | None:
    """A height and width that are plain numbers; None if they are free."""
    height, width = size
    return (height, width) if type(height) is int and type(width) is int else None
