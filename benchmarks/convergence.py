"""How fast DETR learns with the training helpers of a recipe, against plain DETR with the same recipe.

    python benchmarks/convergence.py --data scenes --recipe scenes --steps 2000 --backbone FILE --output convergence
    python benchmarks/convergence.py --data BCCD --recipe bccd --steps 2080 --backbone FILE --output convergence-bccd

For each seed plain DETR is trained with `--steps` steps, and DETR with helpers with half as many, each with its whole
schedule; model, data, augmentation, learning rate and starting features are the same. AP is that of the validation
images, evaluations are not part of the times. In `--output` are the curves as a picture and all numbers as JSON; a
run that is there already is not repeated, so that a measurement that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib.figure import Figure
from report import machine, print_rows, write_json
from transformers import PrinterCallback, TrainerCallback, set_seed

from transformers_detr.data.load import open_dataset
from transformers_detr.data.records import DetectionDataset
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.model_setup import starting_point
from transformers_detr.training.progress_callback import Progress
from transformers_detr.training.trainer import DetrTrainer

PLAIN = {"token_weight": 0.0, "tokens_first": 0.0, "anchored_start": False, "query_groups": 1}
SIDES: dict[str, tuple[dict[str, Any], int]] = {"plain": (PLAIN, 1), "helped": ({}, 2)}
"""Settings beyond the recipe's, and what the steps are divided by."""

EVALUATIONS = 10
COLORS = {"plain": "#D55E00", "helped": "#0072B2"}

Curve = list[dict[str, float]]


class _Clock(TrainerCallback):
    """Wall-clock and processor seconds of the steps alone, and the curve over them."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self.curve: Curve = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        self.begun = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        self.wall += time.perf_counter() - self.begun[0]
        self.processor += time.process_time() - self.begun[1]

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Note how good the model is by now."""
        scores = {name: metrics[f"eval_{name}"] for name in ("AP", "AP50")}
        self.curve.append({"step": state.global_step, "wall": self.wall, "processor": self.processor, **scores})


def train(dataset: DetectionDataset, given: argparse.Namespace, side: str, seed: int) -> Curve:
    """Train one model; how good it was when."""
    settings, divisor = SIDES[side]
    steps = given.steps // divisor
    set_seed(seed)
    point = starting_point(given.recipe, dataset, given.size, backbone_weights=given.backbone)
    every = max(steps // EVALUATIONS, 1)
    clock = _Clock()
    with TemporaryDirectory() as folder:
        own = {"max_steps": steps, "eval_strategy": "steps", "eval_steps": every, "save_strategy": "no", "seed": seed}
        own |= {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "load_best_model_at_end": False}
        own |= {"bf16": given.bfloat16, "use_cpu": not torch.accelerator.is_available(), "logging_steps": every}
        own |= {} if given.batch_size is None else {"per_device_train_batch_size": given.batch_size}
        arguments = DetrTrainingArguments(**{**point.training, **own, **settings})
        trainer = DetrTrainer(point.model, arguments, dataset, point.processor, callbacks=[Progress(), clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.curve


def rows(curves: dict[str, Curve]):
    """A line for each run: how it ended, and when it was as good as plain DETR of the same seed in the end."""
    for name, curve in curves.items():
        side, _, seed = name.partition("-")
        goal = curves[f"plain-{seed}"][-1]["AP"]
        reached = next((point for point in curve if point["AP"] >= goal), None)
        there = ("never", "never") if reached is None else (int(reached["step"]), reached["processor"] / 60)
        last = curve[-1]
        yield side, seed, int(last["step"]), last["processor"] / 60, last["AP"], last["AP50"], *there


def draw(curves: dict[str, Curve], title: str, path: Path) -> None:
    """AP over steps and over time."""
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
    parser.add_argument("--recipe", required=True, help="recipe of a fresh model, with helpers")
    parser.add_argument("--backbone", type=Path, help="weights for the backbone, as for `detr train`")
    parser.add_argument("--steps", type=int, default=2000, help="of plain DETR; with helpers half as many")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--size", type=int, help="shorter side, instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="folder for numbers and picture")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = open_dataset(given.data)
    given.output.mkdir(parents=True, exist_ok=True)
    curves: dict[str, Curve] = {}
    for seed in given.seeds:
        for side in SIDES:
            path = given.output / f"{side}-{seed}.json"
            if not path.exists():
                write_json(path, {"curve": train(dataset, given, side, seed)})
            curves[f"{side}-{seed}"] = json.loads(path.read_text("utf-8"))["curve"]
    columns = ("side", "seed", "steps", "minutes", "AP", "AP50", "as good as plain: steps", "minutes then")
    print_rows(columns, rows(curves))
    ends = {side: statistics.mean(curves[f"{side}-{seed}"][-1]["AP"] for seed in given.seeds) for side in SIDES}
    print(f"Mean AP: plain {ends['plain']:.3f}, with helpers and half the steps {ends['helped']:.3f}")
    settings = {name: value if isinstance(value, int | list) else str(value) for name, value in vars(given).items()}
    write_json(given.output / "convergence.json", {"machine": machine(given.threads), **settings, "curves": curves})
    draw(
        curves,
        f"{dataset.name}, recipe {given.recipe}: plain DETR and half the steps with helpers",
        given.output / "convergence.png",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
