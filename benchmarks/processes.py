"""Cost of a fresh process: importing, loading, the first detection, and its peak memory, ours and stock.

    python benchmarks/processes.py
    python benchmarks/processes.py --repeats 7 --output processes.json

Each run is a separate process, interleaved; medians. "Import": the two classes, after torch itself; "detection":
the peak beyond what the process had after loading. Both sides detect in the same image with the same weights, and
what they find is compared.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from report import Disagreement, add_common_arguments, machine, peak_bytes, print_rows, write_json

PACKAGES = {"ours": "transformers_detr", "stock": "transformers"}
MEASURES = ("import, s", "load, s", "first detection, s", "peak, MB", "loaded, MB", "detection, MB")
COLUMNS = ("measure", "ours", "stock", "stock ÷ ours")


def run(side: str, folder: str) -> dict[str, Any]:
    """Import, load and detect once in this process; return the costs."""
    start = time.perf_counter()
    package = importlib.import_module(PACKAGES[side])
    model_class, processor_class = package.DetrForObjectDetection, package.DetrImageProcessor
    imported = time.perf_counter()
    model, processor = model_class.from_pretrained(folder).eval(), processor_class.from_pretrained(folder)
    loaded, loaded_bytes = time.perf_counter(), peak_bytes()
    pixels = torch.randint(0, 256, (3, 30, 40), generator=torch.Generator().manual_seed(0)).repeat_interleave(16, 1)
    image = pixels.repeat_interleave(16, 2).to(torch.uint8)  # (3, 480, 640)
    with torch.inference_mode():
        outputs = model(**processor(image, return_tensors="pt"))
    found = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(480, 640)])[0]
    done = time.perf_counter()
    seconds = (imported - start, loaded - imported, done - loaded)
    megabytes = (peak_bytes() / 1e6, loaded_bytes / 1e6, (peak_bytes() - loaded_bytes) / 1e6)
    return {"measures": dict(zip(MEASURES, (*seconds, *megabytes), strict=True)), "scores": found["scores"].tolist()}


def measure(folder: str, arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each quantity.

    Raises:
        Disagreement: The sides found different objects.
    """
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in PACKAGES}
    for _ in range(arguments.repeats + 1):
        for side in PACKAGES:
            command = [sys.executable, __file__, "--run", side, folder, "--threads", str(arguments.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
    ours, stock = (torch.tensor(runs[side][0]["scores"]) for side in PACKAGES)
    if not float((ours - stock).abs().max()) < 1e-3:  # images resized by two libraries may differ by a step
        raise Disagreement(f"scores differ by {float((ours - stock).abs().max()):.1e}")
    for name in MEASURES:
        mine, theirs = (statistics.median(r["measures"][name] for r in values[1:]) for values in runs.values())
        yield name, mine, theirs, theirs / mine


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser)
    parser.add_argument("--run", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.run:
        print(json.dumps(run(*arguments.run)))
        return 0
    from models import Models  # only here: the processes that are measured must not have imported anything

    models = Models(arguments.backbone)
    try:
        rows = print_rows(COLUMNS, measure(models.folder, arguments))
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1
    write_json(arguments.output, {"backbone": arguments.backbone, **machine(arguments.threads), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
