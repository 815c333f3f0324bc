"""Time of detection over batch sizes, image sizes and threads: ours, fused, without fast paths, and stock.

    python benchmarks/growth.py
    python benchmarks/growth.py --batches 1 4 --sizes 480x640 800x1066 --threads 1 2 --output growth.json

From pixel values to logits and boxes, float32, interleaved; outputs are compared before each line is printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from models import Models
from report import Disagreement, machine, print_rows, write_json

from transformers_detr.export.interleaved_timing import time_interleaved

COLUMNS = ("threads", "size", "batch", "stock, s", "ours: stock ÷ s", "fused: stock ÷ s", "no fast paths: stock ÷ s")


def measure(models: Models, arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each combination."""
    fused, plain = copy.deepcopy(models.ours).fuse(), copy.deepcopy(models.ours)
    plain.config.fast_paths = False
    every = {"stock": models.stock, "ours": models.ours, "fused": fused, "no fast paths": plain}
    for threads, size, batch in product(arguments.threads, arguments.sizes, arguments.batches):
        torch.set_num_threads(threads)
        height, width = map(int, size.split("x"))
        inputs = {"pixel_values": torch.randn(batch, 3, height, width)}
        for model in (models.ours, fused, plain):
            models.same_answers(inputs, model)
        with torch.inference_mode():
            sides: dict[str, Callable[[], Any]] = {name: partial(model, **inputs) for name, model in every.items()}
            seconds = time_interleaved(sides, arguments.repeats)
        stock, *others = (statistics.median(values) for values in seconds.values())
        yield threads, size, batch, stock, *(stock / other for other in others)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--sizes", nargs="+", default=["320x427", "480x640", "800x1066"], help="height x width")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    try:
        rows = print_rows(COLUMNS, measure(Models(arguments.backbone), arguments))
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1
    write_json(arguments.output, {"backbone": arguments.backbone, **machine(max(arguments.threads)), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
