"""Quantization of ONNX files to 8-bit integers with ONNX Runtime's quantizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[np.generic]]
"""One batch, by the names of the inputs."""

_BACKBONE_OPERATIONS = ("Conv", "MaxPool", "Add", "Mul")
"""Calibrated operations of the backbone. The encoder needs float32 sums and norms: only matrix products there."""


def quantize_weights(source: Path, path: Path) -> None:
    """Round the weights of the matrix products to 8 bits, and their inputs at run time; needs no data.

    Convolutions stay float32: without calibrated ranges they would get slower, not faster.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operations = ["MatMul", "Gemm"]
    with _without_advice():
        quantize_dynamic(source, path, op_types_to_quantize=operations, per_channel=True, weight_type=QuantType.QInt8)


def quantize_calibrated(source: Path, path: Path, feeds: Iterable[Feed]) -> None:
    """Round weights and activations of backbone and encoder to 8 bits, with ranges measured on example batches.

    Args:
        source: The float32 file.
        path: The 8-bit file.
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
    """Silence the quantizer's advice to preprocess graphs, which these do not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _is_calibrated(node: Any, weights: set[str]) -> bool:
    """Return whether a node, named after its module, is rounded to 8 bits; `weights` are names of constants."""
    if "backbone" in node.name:
        return node.op_type in _BACKBONE_OPERATIONS
    return "model.encoder" in node.name and node.op_type == "MatMul" and node.input[1] in weights
