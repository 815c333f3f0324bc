"""Ours and stock on a CUDA GPU, each in its best setting: inference at batch sizes, and training images per second.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --batches 1 8 32 --height 800 --width 1066 --output gpu.json

Inference in bfloat16 with channels last, eager and compiled with CUDA graphs ("reduce-overhead"); training with float32
weights under autocast to bfloat16, with AdamW, 512x512. A setting that fails on one side is shown as such, and the last
line of each batch size compares the quickest setting of either. In float32 the answers are compared before anything is
timed.
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

from transformers_detr.turns import take_turns

COLUMNS = ("what", "batch", "setting", "ours, images/s", "stock, images/s", "ours ÷ stock")
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda model: model,
    "compiled, CUDA graphs": lambda model: torch.compile(model, mode="reduce-overhead"),
}


def timed(run: Callable[[], Any]) -> Callable[[], None]:
    """The same, until the GPU is done."""

    def wait() -> None:
        run()
        torch.cuda.synchronize()

    return wait


def images_per_second(sides: dict[str, Callable[[], Any]], batch: int, repeats: int) -> dict[str, float]:
    """By side; sides that fail are left out, with the reason on the error stream."""
    running = {}
    for side, run in sides.items():
        try:
            timed(run)()
            running[side] = timed(run)
        except Exception as error:  # compilers raise anything
            print(f"{side}: {type(error).__name__}: {error}", file=sys.stderr)
    return {side: batch / statistics.median(values) for side, values in take_turns(running, repeats).items()}


def rows_of(
    what: str, batch: int, make: Callable[[str, str], Callable[[], Any]], settings: list[str], repeats: int
) -> Iterator[tuple[Any, ...]]:
    """One row for each setting, and one for the best of either side; `make` gives what to run, by side and setting."""
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
    """Rows of inference in bfloat16."""
    halves = {
        side: getattr(models, side).to(torch.bfloat16, memory_format=torch.channels_last) for side in ("ours", "stock")
    }
    for batch in arguments.batches:
        images = torch.randn(batch, 3, arguments.height, arguments.width, device="cuda", dtype=torch.bfloat16)
        images = images.contiguous(memory_format=torch.channels_last)

        def make(side: str, setting: str, images: torch.Tensor = images) -> Callable[[], Any]:
            model = SETTINGS[setting](halves[side])

            def run() -> Any:
                with torch.inference_mode():
                    return model(pixel_values=images)

            return run

        yield from rows_of("inference", batch, make, list(SETTINGS), arguments.repeats)


def training(models: Models, arguments: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """Rows of training; the matching waits for the processor, so nothing is compiled whole."""
    batch = arguments.training_batch
    images = torch.randn(batch, 3, 512, 512, device="cuda")
    labels = [
        {
            "class_labels": torch.randint(91, (10,), device="cuda"),
            "boxes": torch.rand(10, 4, device="cuda") * 0.4 + 0.2,
        }
        for _ in range(batch)
    ]

    def make(side: str, setting: str) -> Callable[[], Any]:
        model = getattr(models, side).to(torch.float32).train()
        model.config.auxiliary_loss = True
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=1e-6, fused=True)

        def step() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(pixel_values=images, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    yield from rows_of("training", batch, make, ["eager"], arguments.repeats)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_arguments(parser, repeats=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    parser.add_argument("--training-batch", type=int, default=16)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu.py needs a CUDA GPU, and torch sees none here; nothing was measured", file=sys.stderr)
        return 1
    models = Models(arguments.backbone)
    for side in ("ours", "stock"):
        getattr(models, side).to("cuda")
    torch.backends.cudnn.allow_tf32 = False  # for the comparison; nothing that is timed computes in float32
    try:
        models.same_answers({"pixel_values": torch.randn(1, 3, arguments.height, arguments.width, device="cuda")})
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1

    def rows() -> Iterator[tuple[Any, ...]]:
        yield from inference(models, arguments)
        yield from training(models, arguments)

    report = {"gpu": torch.cuda.get_device_name(), "backbone": arguments.backbone, **machine(arguments.threads)}
    write_json(arguments.output, {**report, "rows": print_rows(COLUMNS, rows())})
    return 0


if __name__ == "__main__":
    sys.exit(main())
