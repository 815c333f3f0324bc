"""ONNX files of a model: float32, float16, and 8-bit integers.

TensorRT and other engines start from these files too (`trtexec --onnx=model.onnx`, with `--minShapes`, `--optShapes`
and `--maxShapes`, or a file of a fixed size).
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from transformers_detr.backends.registry import INPUTS
from transformers_detr.export.traced_graph import dynamic_shapes

_SCOPES = "pkg.torch.onnx.name_scopes"

Feed = dict[str, NDArray[np.generic]]
"""One batch by the names of the inputs."""

_BACKBONE_OPERATIONS = ("Conv", "MaxPool", "Add", "Mul")
"""Calibrated operations of the backbone. The encoder needs float32 sums and norms: only matrix products there."""


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
    _name_by_module(onnx.model.graph)
    onnx.save(path)


def _name_by_module(graph: Any) -> None:
    """Name nodes after the modules they come from, in place of notes that hold stack traces of this machine."""
    for number, node in enumerate(graph):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "graph")
        node.name = f"{module}/{node.op_type}_{number}"
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()


def quantize_weights(source: Path, path: Path) -> None:
    """Round the weights of the matrix products to 8 bits, and their inputs at run time; needs no data.

    Convolutions stay as they are: without calibrated ranges they would get slower, not faster.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operations = ["MatMul", "Gemm"]
    with _without_advice():
        quantize_dynamic(source, path, op_types_to_quantize=operations, per_channel=True, weight_type=QuantType.QInt8)


def quantize_calibrated(source: Path, path: Path, feeds: Iterable[Feed]) -> None:
    """Round weights and activations of backbone and encoder to 8 bits, with ranges that example batches give.

    Args:
        source: The float32 file.
        path: Where the other one goes.
        feeds: Batches such as the model will see, some tens of images in all.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    graph = onnx.load(source, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    with _without_advice():
        quantize_static(
            source,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in graph.node if _is_calibrated(node, weights)],
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without the quantizer's advice to prepare graphs, of which these have no need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _is_calibrated(node: Any, weights: set[str]) -> bool:
    """Whether a node, named by `_name_by_module`, is rounded to 8 bits; `weights` are names of constants."""
    if "backbone" in node.name:
        return node.op_type in _BACKBONE_OPERATIONS
    return "model.encoder" in node.name and node.op_type == "MatMul" and node.input[1] in weights
