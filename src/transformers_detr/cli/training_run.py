"""The steps of `detr train`: data, starting point, arguments, and what is done with them."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from transformers import PrinterCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from transformers_detr.cli.check import show_report
from transformers_detr.data.check_workflow import check_dataset
from transformers_detr.data.cleaning import cleaned
from transformers_detr.data.findings import Severity
from transformers_detr.data.records import DetectionDataset
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.model_setup import StartingPoint, starting_point
from transformers_detr.training.overfit_check import LEARNED, LEARNING, overfit
from transformers_detr.training.preview import contact_sheet
from transformers_detr.training.progress_callback import Progress
from transformers_detr.training.recipes import Recipe, read_recipe, write_recipe
from transformers_detr.training.trainer import DetrTrainer

SANITY_STEPS = {"pretrained": 400, "fresh": 1500}
"""Steps in which a model should have learned eight images by heart."""

ANY_NUMBER = 10**9

RECIPE = "recipe.yaml"

ON_PAGE = 12
"""Training images on the page of the training."""

LOGGING_STEPS = 50
"""The losses are shown after so many steps, and at least once an epoch."""

MAY_CHANGE = {"num_train_epochs", "max_steps", "dataloader_num_workers", "report_to", "use_cpu", "push_to_hub"}
"""Settings that may differ when a training goes on."""


def is_first_process() -> bool:
    """Whether this process, of those that share the work, is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def refuse_to_overwrite(output: Path, allowed: bool) -> None:
    """Raise ValueError if a folder holds a training already."""
    if not allowed and any(output.glob("checkpoint-*")):
        raise ValueError(f"{output} already holds a training; go on with --resume, or name another folder")


def read_dataset(source: str, clean: bool, seed: int, console: Console) -> DetectionDataset:
    """Open a dataset after a quick look for faults; a validation split is taken out where there is none.

    Raises:
        ValueError: There are faults that would spoil the training.
    """
    with console.status(f"Examining {escape(source)}"):
        report = check_dataset(source, quick=True, num_queries=ANY_NUMBER)
    errors = report.count(Severity.ERROR)
    if report.dataset is None or (errors and not clean):
        show_report(report, console)
        raise ValueError(f"{source} has errors; repair them, or leave the faulty entries out with --clean")
    dataset = cleaned(report) if clean else report.dataset
    if warnings := report.count(Severity.WARNING):
        console.print(f"[yellow]{warnings} warnings[/] about {escape(source)}; `detr check` shows them.")
    had_validation = "val" in dataset.splits
    dataset = dataset.with_validation(seed=seed)
    train, val = len(dataset.split("train")), len(dataset.split("val"))
    origin = "" if had_validation else ", taken out of the training images"
    console.print(f"Data: {train} images to train on, {val} for validation{origin}.")
    return dataset


def start(
    model: str,
    dataset: DetectionDataset,
    size: int | None,
    queries: int | None,
    backbone: Path | None,
    masks: bool,
    seed: int,
    console: Console,
) -> StartingPoint:
    """The model to start from, and what there is to say about it."""
    logging.disable_progress_bar()  # one bar is enough
    set_seed(seed)
    with console.status(f"Loading {escape(model)}"):
        point = starting_point(model, dataset, size, queries, backbone, masks)
    for note in point.notes:
        console.print(escape(note))
    for warning in point.warnings:
        console.print(f"[yellow]{escape(warning)}[/]")
    return point


def arguments(
    output: Path, point: StartingPoint, given: dict[str, Any], settings: list[str], images: int
) -> dict[str, Any]:
    """Fields of `DetrTrainingArguments`: those of the starting point, then what was given, then `--set`."""
    loggers = [name for name in ("tensorboard",) if importlib.util.find_spec(name)]
    values = {"per_device_train_batch_size": 4, "report_to": loggers or "none", **point.training}
    values |= {name: value for name, value in given.items() if value is not None}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"--set {setting}: must be NAME=VALUE")
        if name not in DetrTrainingArguments.__dataclass_fields__:
            raise ValueError(f"--set {setting}: DetrTrainingArguments has no field {name!r}")
        values[name] = yaml.safe_load(value)
    values.setdefault("logging_steps", min(max(images // values["per_device_train_batch_size"], 1), LOGGING_STEPS))
    return values | {"output_dir": str(output), "disable_tqdm": True}


def write_preview(
    point: StartingPoint, values: dict[str, Any], dataset: DetectionDataset, path: Path, console: Console
) -> None:
    """Draw a contact sheet of augmented training images."""
    trainer = DetrTrainer(point.model, DetrTrainingArguments(**values), dataset, point.processor)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(trainer.train_dataset, dataset.class_names, trainer.args.edges, seed=trainer.args.seed).save(path)
    console.print(f"What the model would see: [bold]{escape(str(path))}[/]")


def try_eight_images(point: StartingPoint, values: dict[str, Any], dataset: DetectionDataset, console: Console) -> None:
    """Try whether the pipeline can learn at all."""
    steps = SANITY_STEPS["pretrained" if isinstance(point.source, str) else "fresh"]
    score = overfit(point.model, point.processor, dataset, values, steps, [Progress()])
    if score >= LEARNED:
        console.print(f"[green]The pipeline can learn:[/] AP {score:.2f} on eight images.")
    elif score >= LEARNING:
        console.print(f"[yellow]The pipeline learns, slowly:[/] AP {score:.2f} on eight images.")
    else:
        console.print(
            f"[red]Eight images were not learned:[/] AP {score:.2f}. Look at --preview: do the boxes fit? "
            "If they do, the learning rate is the next suspect."
        )
        raise typer.Exit(1)


def refuse_other_settings(recipe: Recipe, before: Recipe) -> None:
    """Raise ValueError if a training would go on otherwise than it began; more epochs are welcome."""
    now, then = ({"model": r.model, "processor": r.processor, **r.training} for r in (recipe, before))
    differing = [name for name in {**then, **now} if name not in MAY_CHANGE and now.get(name) != then.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {then.get(name)!r} and is now {now.get(name)!r}" for name in differing)
        raise ValueError(f"--resume: the training was begun with other settings: {changes}")


def _keep_page(
    trainer: DetrTrainer, settings: dict[str, Any], dataset: DetectionDataset, output: Path, console: Console
) -> None:
    """Have a page written with the curves of the training, if there is matplotlib to draw them."""
    if importlib.util.find_spec("matplotlib") is None:
        console.print("No page of the training is drawn: pip install 'transformers-detr\\[evaluate]'")
        return
    from transformers_detr.training.training_report import PAGE, TrainingPage

    args = trainer.args
    sheet = contact_sheet(trainer.train_dataset, dataset.class_names, args.edges, ON_PAGE, args.seed)
    trainer.add_callback(TrainingPage(output, f"Training on {dataset.name}", settings, sheet))
    console.print(f"Curves, renewed after each evaluation: [bold]{escape(str(output / PAGE))}[/]")


def train(
    point: StartingPoint,
    values: dict[str, Any],
    dataset: DetectionDataset,
    output: Path,
    resume: bool,
    console: Console,
) -> None:
    """Train, keep the best model, say how good it is."""
    checkpoint = get_last_checkpoint(str(output)) if resume and output.is_dir() else None
    if resume and checkpoint is None:
        raise ValueError(f"{output} holds no checkpoint to go on from; leave --resume out")
    settings = {name: value for name, value in values.items() if name not in ("output_dir", "disable_tqdm")}
    recipe = Recipe(point.source, json.loads(point.processor.to_json_string()), settings)
    if resume:
        refuse_other_settings(recipe, read_recipe(output / RECIPE))
    trainer = DetrTrainer(
        point.model, DetrTrainingArguments(**values), dataset, point.processor, callbacks=[Progress()]
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["detr", *sys.argv[1:]])
        write_recipe(recipe, output / RECIPE, command)
        _keep_page(trainer, {"command": command, "model": point.source, **settings}, dataset, output, console)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    best, what = (
        trainer.state.best_metric,
        str(trainer.args.metric_for_best_model).removeprefix("eval_").replace("_", " "),
    )
    console.print(f"Best {what} on the validation images: [bold]{best:.3f}[/]" if best is not None else "Trained.")
    verb = "segment" if trainer.with_masks else "detect"
    console.print(f"Try it: [bold]detr {verb} PHOTO --model {escape(str(output))}[/]")
