"""Time of a detection by layer type, compared with this machine's measured peak.

    python benchmarks/remaining.py
    python benchmarks/remaining.py --height 800 --width 1066 --output remaining.json

The peak is measured: the quickest of a large matrix product, the same as a convolution of one pixel, which another
library computes, and a convolution of 3x3 pixels, which is a matrix product that reuses what it has read.
Operations are those of torch's profiler, over the repeats; the work of convolutions, linear layers and attention is
counted from their shapes by torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from models import Models
from report import add_common_arguments, machine, print_rows, write_json
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from transformers_detr.export.interleaved_timing import time_interleaved

COLUMNS = ("part", "ms", "part of all", "GFLOP/s", "of the peak")
SIDE = 2048
KINDS = {
    "convolutions and linear layers": (
        "aten::mkldnn_convolution",
        "mkldnn::_convolution_pointwise",
        "mkldnn::_convolution_pointwise_",
        "aten::addmm",
        "aten::mm",
        "aten::thnn_conv2d",
    ),
    "attention": ("attention",),
    "additions, multiplications, activations": ("aten::add", "aten::mul", "aten::clamp", "aten::relu", "aten::sigmoid"),
    "pooling": ("aten::max_pool",),
    "copies and memory": ("aten::copy_", "aten::fill", "aten::zero", "aten::empty", "aten::resize", "aten::cat"),
    "norms": ("aten::native_layer_norm",),
}


def peak(repeats: int) -> dict[str, float]:
    """Operations per second, in 1e9, of matrix products by the ways to compute them."""
    matrix = torch.randn(SIDE, SIDE)
    pixels = matrix.T.reshape(1, SIDE, 32, SIDE // 32).contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 3, 3)  # 9 * 256**2 * 120**2 products, near those of the matrices
    fewer_channels = torch.randn(1, 256, 120, 120).contiguous(memory_format=torch.channels_last)
    sides: dict[str, tuple[int, Callable[[], Any]]] = {
        "matrix product": (SIDE**3, lambda: matrix @ matrix),
        "convolution of one pixel": (SIDE**3, lambda: torch.conv2d(pixels, matrix[:, :, None, None], dilation=2)),
        "convolution of 3x3": (9 * 256**2 * 120**2, lambda: torch.conv2d(fewer_channels, kernels, padding=1)),
    }
    seconds = time_interleaved({side: run for side, (_, run) in sides.items()}, repeats)
    return {side: 2e-9 * products / min(seconds[side]) for side, (products, _) in sides.items()}


def work(model: Any, pixel_values: torch.Tensor) -> int:
    """Operations of one forward pass."""
    with FlopCounterMode(display=False) as counter:
        model(pixel_values)
    return counter.get_total_flops()


def kind_of(name: str) -> str:
    """The kind that an operation of the profiler belongs to."""
    for kind, beginnings in KINDS.items():
        if any(part in name for part in beginnings):
            return kind
    return "everything else"


def measure(
    models: Models, pixel_values: torch.Tensor, operations: int, best: float, repeats: int
) -> Iterator[tuple[Any, ...]]:
    """One row for the whole, and one for each kind of operation."""
    seconds = statistics.median(time_interleaved({"ours": lambda: models.ours(pixel_values)}, repeats)["ours"])
    yield "all", 1e3 * seconds, 1.0, 1e-9 * operations / seconds, 1e-9 * operations / seconds / best
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(repeats):
            models.ours(pixel_values)
    spent: dict[str, float] = {}
    for event in profiled.key_averages():
        kind = kind_of(event.key)
        spent[kind] = spent.get(kind, 0.0) + event.self_cpu_time_total
    whole = sum(spent.values())
    for kind, microseconds in sorted(spent.items(), key=lambda item: -item[1]):
        yield kind, 1e-3 * microseconds / repeats, microseconds / whole, "", ""
    yield "at the measured peak", 1e-6 * operations / best, 1e-9 * operations / best / seconds, best, 1.0


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = Models(arguments.backbone)
    pixel_values = torch.randn(1, 3, arguments.height, arguments.width)
    models.same_answers({"pixel_values": pixel_values})
    operations = work(models.ours, pixel_values)  # the counter does not work in inference mode
    with torch.inference_mode():
        peaks = peak(arguments.repeats)
        print(", ".join(f"{name}: {value:.0f} GFLOP/s" for name, value in peaks.items()) + "\n")
        best = max(peaks.values())
        rows = print_rows(COLUMNS, measure(models, pixel_values, operations, best, arguments.repeats))
    write_json(
        arguments.output,
        {"backbone": arguments.backbone, **machine(arguments.threads), "peak_gflops": peaks, "rows": rows},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
