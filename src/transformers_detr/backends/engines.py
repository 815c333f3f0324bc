"""The engines that run exported files: ONNX Runtime, OpenVINO, and PyTorch without this package's model code."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_detr.backends.exported_model import Engine
from transformers_detr.backends.layout import INPUTS, OUTPUTS


def open_onnx(path: Path, device: str) -> Engine:
    """Open a file with ONNX Runtime.

    Args:
        path: An `.onnx` file.
        device: "cpu", or "cuda" with a number behind a colon, which needs `onnxruntime-gpu`.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: The installed one cannot use the device.
    """
    import onnxruntime

    kind, _, number = device.partition(":")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind)
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ValueError(f"device {device!r} cannot be used: the installed ONNX Runtime has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    choice = {"device_id": number} if kind == "cuda" and number else {}
    session = onnxruntime.InferenceSession(path, options, providers=[(provider, choice)])
    shapes = {value.name: value.shape for value in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]

    def run(*inputs: Tensor) -> dict[str, Tensor]:
        found = session.run(names, _feed(inputs))
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return Engine(run, _fixed(shapes["pixel_values"][2:]))


def open_openvino(path: Path, device: str) -> Engine:
    """Open a model with OpenVINO.

    Args:
        path: The `.xml` file, its `.bin` beside it.
        device: "cpu", or another that OpenVINO knows, such as "gpu" or "npu".

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: It cannot use the device.
    """
    core = _openvino()
    name = device.upper()
    if name.partition(".")[0] not in {known.partition(".")[0] for known in core.available_devices}:
        raise ValueError(f"device {device!r} cannot be used: OpenVINO finds {', '.join(core.available_devices)}")
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if name == "CPU":
        settings |= {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
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
        ValueError: Another device is asked for.
    """
    if device != "cpu":
        raise ValueError(
            f"device {device!r} cannot be used: exported programs are for the CPU; use the model's weights"
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
