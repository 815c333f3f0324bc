"""Memory of a process that sees many image sizes: resident memory after the first images and after all, ours and stock.

    python benchmarks/memory.py
    python benchmarks/memory.py --sizes 20 --backbone resnet18 --output memory.json

Each side runs in a process of its own: ten forwards of one size, then one forward of each further size, in inference
mode. The figures are the growth from the tenth forward to the last, and in the second half of the sizes. "Detector"
detects in images of these sizes; it returns freed memory to the system, as the commands and the service do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from PIL import Image
from report import add_common_arguments, machine, print_rows, write_json

import transformers_detr
from transformers_detr import DetrImageProcessor

SIDES = ("ours", "ours, fused", "ours, no fast paths", "stock", "Detector")
COLUMNS = ("side", "first, MB", "growth, MB", "in the second half, MB", "peak, MB")
FIRST = 10


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(side: str, folder: str, sizes: int) -> list[float]:
    """Run one side in this process; return the resident memory after the first forwards and after each other one."""
    library: Any = transformers if side == "stock" else transformers_detr
    model = library.DetrForObjectDetection.from_pretrained(folder).eval()
    if side == "ours, fused":
        model.fuse()
    model.config.fast_paths = side != "ours, no fast paths"
    detector = (
        transformers_detr.Detector(model.fuse(), DetrImageProcessor(do_resize=False)) if side == "Detector" else None
    )
    generator = random.Random(0)
    seen = []
    with torch.inference_mode():
        for number in range(FIRST + sizes):
            short, long = (
                (608, 800) if number < FIRST else (generator.randrange(480, 801), generator.randrange(800, 1067))
            )
            height, width = (short, long) if number % 2 else (long, short)
            if detector is None:
                model(pixel_values=torch.zeros(1, 3, height, width))
            else:
                detector(Image.new("RGB", (width, height)))
            seen.append(resident())
    return seen[FIRST - 1 :]


def measure(arguments: argparse.Namespace, folder: str) -> Iterator[tuple[Any, ...]]:
    """One row for each side."""
    for side in arguments.sides:
        command = [sys.executable, __file__, "--run", side, folder, "--sizes", str(arguments.sizes)]
        command += ["--threads", str(arguments.threads)]
        seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        yield side, seen[0], seen[-1] - seen[0], seen[-1] - seen[len(seen) // 2], max(seen)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--sizes", type=int, default=60)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--run", nargs=2, metavar=("SIDE", "DIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.run:
        side, folder = arguments.run
        print(json.dumps(run(side, folder, arguments.sizes)))
        return 0
    with TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = transformers_detr.DetrConfig(backbone=arguments.backbone, num_labels=91)
        transformers_detr.DetrForObjectDetection(config).save_pretrained(folder)
        rows = print_rows(COLUMNS, measure(arguments, folder))
    write_json(arguments.output, {"backbone": arguments.backbone, **machine(arguments.threads), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
