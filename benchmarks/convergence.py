"""Compare how fast DETR learns with the training aids of a recipe and without them.

    python benchmarks/convergence.py --data scenes --recipe scenes --steps 2000 --backbone-weights FILE --output conv
    python benchmarks/convergence.py --data BCCD --recipe bccd --steps 2080 --backbone-weights FILE --output conv-bccd

For each seed, plain DETR is trained with `--steps` steps, and DETR with training aids with half as many, each with its
whole schedule. Model, data, augmentation, learning rate and initial weights are the same. AP is measured on the
validation images; times exclude evaluations. `--output` receives the curves as an image and all numbers as JSON.
Existing runs are not repeated, so that an interrupted measurement resumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib.figure import Figure
from report import machine, print_rows, write_json
from transformers import PrinterCallback, TrainerCallback, set_seed

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.model_setup import set_up_model
from transformers_detr.training.progress_callback import ProgressBar
from transformers_detr.training.trainer import DetrTrainer

PLAIN = {"token_weight": 0.0, "tokens_first": 0.0, "anchored_start": False, "query_groups": 1}
SIDES: dict[str, tuple[dict[str, Any], int]] = {"plain": (PLAIN, 1), "aided": ({}, 2)}
"""Settings of each side in addition to the recipe's, and the divisor of its steps."""

EVALUATIONS = 10
COLORS = {"plain": "#D55E00", "aided": "#0072B2"}

Curve = list[dict[str, float]]


class _Clock(TrainerCallback):
    """Clock of the training steps, wall and processor time, that records AP over both."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self.curve: Curve = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start both clocks."""
        self.begun = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the times of the step."""
        self.wall += time.perf_counter() - self.begun[0]
        self.processor += time.process_time() - self.begun[1]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Record the AP."""
        scores = {name: metrics[f"eval_{name}"] for name in ("AP", "AP50")}
        self.curve.append({"step": state.global_step, "wall": self.wall, "processor": self.processor, **scores})


def train(dataset: DetectionDataset, given: argparse.Namespace, side: str, seed: int) -> Curve:
    """Train one model and return its AP over steps and time."""
    settings, divisor = SIDES[side]
    steps = given.steps // divisor
    set_seed(seed)
    setup = set_up_model(given.recipe, dataset, given.size, backbone_weights=given.backbone_weights)
    every = max(steps // EVALUATIONS, 1)
    clock = _Clock()
    with TemporaryDirectory() as folder:
        own = {"max_steps": steps, "eval_strategy": "steps", "eval_steps": every, "save_strategy": "no", "seed": seed}
        own |= {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "load_best_model_at_end": False}
        own |= {"bf16": given.bfloat16, "use_cpu": not torch.accelerator.is_available(), "logging_steps": every}
        own |= {} if given.batch_size is None else {"per_device_train_batch_size": given.batch_size}
        arguments = DetrTrainingArguments(**{**setup.training, **own, **settings})
        trainer = DetrTrainer(setup.model, arguments, dataset, setup.processor, callbacks=[ProgressBar(), clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.curve


def rows(curves: dict[str, Curve]) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each run: its final AP, and when it reached the final AP of plain DETR with the same seed."""
    for name, curve in curves.items():
        side, _, seed = name.partition("-")
        goal = curves[f"plain-{seed}"][-1]["AP"]
        reached = next((point for point in curve if point["AP"] >= goal), None)
        there = ("never", "never") if reached is None else (int(reached["step"]), reached["processor"] / 60)
        last = curve[-1]
        yield side, seed, int(last["step"]), last["processor"] / 60, last["AP"], last["AP50"], *there


def draw(curves: dict[str, Curve], title: str, path: Path) -> None:
    """Draw AP over steps and over time."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, (key, unit, label) in zip(
        figure.subplots(1, 2, sharey=True),
        [("step", 1, "Steps"), ("processor", 60, "Processor time without evaluations, minutes")],
        strict=True,
    ):
        for name, curve in curves.items():
            side, _, seed = name.partition("-")
            along = [0.0] + [point[key] / unit for point in curve]
            style = {"color": COLORS[side], "linestyle": ("-", "--", ":")[int(seed) % 3]}
            axes.plot(along, [0.0] + [point["AP"] for point in curve], label=f"{side}, seed {seed}", **style)
        axes.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("AP of the validation images")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Train, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="dataset with the splits train and val")
    parser.add_argument("--recipe", required=True, help="recipe of a fresh model, with training aids")
    parser.add_argument("--backbone-weights", type=Path, help="timm weights for the backbone, as for `detr train`")
    parser.add_argument("--steps", type=int, default=2000, help="steps of plain DETR; half as many with training aids")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--size", type=int, help="shorter side, instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder for numbers and plot")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = DetectionDataset.load(given.data)
    given.output.mkdir(parents=True, exist_ok=True)
    curves: dict[str, Curve] = {}
    for seed in given.seeds:
        for side in SIDES:
            path = given.output / f"{side}-{seed}.json"
            if not path.exists():
                write_json(path, {"curve": train(dataset, given, side, seed)})
            curves[f"{side}-{seed}"] = json.loads(path.read_text("utf-8"))["curve"]
    columns = ("side", "seed", "steps", "minutes", "AP", "AP50", "steps to plain AP", "minutes to plain AP")
    print_rows(columns, rows(curves))
    ends = {side: statistics.mean(curves[f"{side}-{seed}"][-1]["AP"] for seed in given.seeds) for side in SIDES}
    print(f"Mean AP: plain {ends['plain']:.1f}, with training aids and half the steps {ends['aided']:.1f}")
    settings = {name: value if isinstance(value, int | list) else str(value) for name, value in vars(given).items()}
    write_json(given.output / "convergence.json", {"machine": machine(given.threads), **settings, "curves": curves})
    draw(
        curves,
        f"{dataset.name}, recipe {given.recipe}: plain DETR, and training aids with half the steps",
        given.output / "convergence.png",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
