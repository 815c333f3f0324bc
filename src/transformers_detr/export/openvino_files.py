"""OpenVINO files of a model, made from its ONNX file."""

from __future__ import annotations

from pathlib import Path


def write_openvino(onnx_file: Path, path: Path, half: bool = False) -> None:
    """Write a model as OpenVINO's `.xml` with a `.bin` beside it.

    Args:
        onnx_file: The same model; a calibrated 8-bit one stays 8-bit.
        path: The `.xml` file.
        half: Whether to store weights as float16, which halves the files; OpenVINO chooses what to compute in.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    import openvino

    openvino.save_model(openvino.convert_model(onnx_file), path, compress_to_fp16=half)
