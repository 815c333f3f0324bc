"""Ours and stock on a CUDA GPU, each in its best setting: inference at batch sizes, and training images per second.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --batches 1 8 32 --height 800 --width 1066 --output gpu.json

Inference in bfloat16 with channels last, eager and compiled with CUDA graphs ("reduce-overhead"); training with float32
weights under autocast to bfloat16, with AdamW, 512x512, eager and compiled around the matching, which is the
processor's. A setting that fails on one side is shown as such, and the last line of each batch size compares the
quickest setting of either. In float32 the answers are compared before anything is timed.

Without a GPU, `--device cpu` tries the program out; its numbers say nothing then.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from models import Models
from report import Disagreement, add_common_arguments, machine, print_rows, write_json

from transformers_detr.export.interleaved_timing import time_interleaved

COLUMNS = ("what", "batch", "setting", "ours, images/s", "stock, images/s", "ours ÷ stock")
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda model: model,
    "compiled": torch.compile,
    "compiled, CUDA graphs": lambda model: torch.compile(model, mode="reduce-overhead"),
}
WARM_UP = 3  # of CUDA graphs: a run that compiles, one that records, and one that replays


def timed(run: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that runs `run` and waits until the GPU has finished."""

    def wait() -> None:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return wait


def images_per_second(sides: dict[str, Callable[[], Any]], batch: int, repeats: int) -> dict[str, float]:
    """Return the throughput of each side; for a side that fails, print the reason to standard error instead."""
    running: dict[str, Callable[[], object]] = {}
    for side, run in sides.items():
        try:
            for _ in range(WARM_UP):
                timed(run)()
            running[side] = timed(run)
        except Exception as error:  # compilers raise anything
            reason = f"{error}\n".splitlines()[0]
            print(f"{side} fails: {type(error).__name__}: {reason}", file=sys.stderr)
    return {side: batch / statistics.median(values) for side, values in time_interleaved(running, repeats).items()}


def rows_of(
    what: str, batch: int, make: Callable[[str, str], Callable[[], Any]], settings: list[str], repeats: int
) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each setting, then the best of each side; `make(side, setting)` returns the run to time."""
    best = {"ours": 0.0, "stock": 0.0}
    for setting in settings:
        torch.compiler.reset()
        found = images_per_second({side: make(side, setting) for side in best}, batch, repeats)
        for side, value in found.items():
            best[side] = max(best[side], value)
        yield what, batch, setting, *(found.get(side, "fails") for side in best), ""
    if all(best.values()):
        yield what, batch, "the best of each", best["ours"], best["stock"], best["ours"] / best["stock"]


def inference(models: Models, arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of inference in bfloat16."""
    halves = {
        side: getattr(models, side).to(torch.bfloat16, memory_format=torch.channels_last) for side in ("ours", "stock")
    }
    for batch in arguments.batches:
        images = torch.randn(batch, 3, arguments.height, arguments.width, device=arguments.device)
        images = images.to(torch.bfloat16, memory_format=torch.channels_last)

        def make(side: str, setting: str, images: torch.Tensor = images) -> Callable[[], Any]:
            model = SETTINGS[setting](halves[side])

            def run() -> Any:
                with torch.inference_mode():
                    return model(pixel_values=images)

            return run

        yield from rows_of("inference", batch, make, ["eager", "compiled, CUDA graphs"], arguments.repeats)


def training(models: Models, arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of training; both sides train the layers that the original trains."""
    models.train_alike()
    batch, device, side_px = arguments.training_batch, arguments.device, arguments.training_size
    images = torch.randn(batch, 3, side_px, side_px, device=device).contiguous(memory_format=torch.channels_last)
    labels = [
        {
            "class_labels": torch.randint(91, (10,), device=device),
            "boxes": torch.rand(10, 4, device=device) * 0.4 + 0.2,
        }
        for _ in range(batch)
    ]

    def make(side: str, setting: str) -> Callable[[], Any]:
        model = getattr(models, side).to(torch.float32).train()
        model.config.auxiliary_loss = True
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=True)
        run = SETTINGS[setting](model)

        def step() -> None:
            with torch.autocast(device, torch.bfloat16):
                loss = run(pixel_values=images, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    yield from rows_of("training", batch, make, ["eager", "compiled"], arguments.repeats)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser, repeats=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    parser.add_argument("--training-batch", type=int, default=16)
    parser.add_argument("--training-size", type=int, default=512, help="of a side, in pixels")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only tries the program out")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py needs a CUDA GPU, and torch sees none here; nothing was measured", file=sys.stderr)
        return 1
    torch.set_num_threads(arguments.threads)
    models = Models(arguments.backbone)
    for side in ("ours", "stock"):
        getattr(models, side).to(arguments.device)
    torch.backends.cudnn.allow_tf32 = False  # for the comparison; nothing that is timed computes in float32
    try:
        images = torch.randn(1, 3, arguments.height, arguments.width)
        models.same_answers({"pixel_values": images.to(arguments.device)})
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1

    def rows() -> Iterator[tuple[Any, ...]]:
        yield from inference(models, arguments)
        yield from training(models, arguments)

    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "none: the program was tried out"
    report = {"gpu": device, "backbone": arguments.backbone, **machine(arguments.threads)}
    write_json(arguments.output, {**report, "rows": print_rows(COLUMNS, rows())})
    return 0


if __name__ == "__main__":
    sys.exit(main())
