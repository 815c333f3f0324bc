"""ONNX files of a model: float32, float16, and 8-bit integers.

TensorRT and other engines start from these files too (`trtexec --onnx=model.onnx`, with `--minShapes`, `--optShapes`
and `--maxShapes`, or a file of a fixed size).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from transformers_detr.backends.layout import INPUTS
from transformers_detr.export.graph import dynamic_shapes

_SCOPES = "pkg.torch.onnx.name_scopes"

Feed = dict[str, NDArray[np.generic]]
"""One batch by the names of the inputs."""

_UNTOUCHED = ("decoder", "class_labels_classifier", "bbox_predictor", "bbox_attention", "mask_head")
"""Parts that stay float32 when the rest is calibrated: small, and their errors go straight into boxes and classes."""


def write_onnx(
    program: ExportedProgram, output_names: list[str], path: Path, fixed_size: tuple[int, int] | None = None
) -> None:
    """Write a traced graph as one ONNX file, weights included.

    Args:
        program: What `trace` gave.
        output_names: Names of its outputs.
        path: Where it goes.
        fixed_size: The size that it was traced with; the dimensions that are free get names.

    Raises:
        ImportError: `onnx` or `onnxscript` is not installed.
    """
    with warnings.catch_warnings():  # of torch's exporter, about itself
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(
            program,
            input_names=list(INPUTS),
            output_names=output_names,
            dynamic_shapes=dynamic_shapes(fixed_size),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if onnx is None:
        raise RuntimeError("torch.onnx.export gave no program")
    onnx.save(path)


def quantize_weights(source: Path, path: Path) -> None:
    """Round the weights of the matrix products to 8 bits, and their inputs at run time; needs no data.

    Convolutions stay as they are: without calibrated ranges they would get slower, not faster.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8)


def quantize_calibrated(source: Path, path: Path, feeds: Iterable[Feed]) -> None:
    """Round weights and activations of trunk and encoder to 8 bits, with ranges that example batches give.

    Args:
        source: The float32 file.
        path: Where the other one goes.
        feeds: Batches such as the model will see, some tens of images in all.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    graph = onnx.load(source, load_external_data=False).graph
    quantize_static(
        source,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm", "MaxPool", "Add", "Where"],
        nodes_to_exclude=[node.name for node in graph.node if _is_untouched(node)],
    )


def _is_untouched(node: Any) -> bool:
    """Whether a node belongs to a part that stays float32, by the module that torch's exporter noted on it."""
    scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "")
    return any(f"{part}'" in scopes or f"{part}." in scopes for part in _UNTOUCHED)
