"""Training workflow: `train`, `preview` and `check_overfit`, from a dataset and a model name to a result."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from PIL import Image
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from transformers_detr.data.check_workflow import CheckReport, check_dataset
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError, Severity
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.model_setup import ModelSetup, set_up_model
from transformers_detr.training.overfit_check import STEPS, OverfitResult, overfit
from transformers_detr.training.preview import contact_sheet
from transformers_detr.training.recipes import Recipe, read_recipe, write_recipe
from transformers_detr.training.trainer import DetrTrainer, training_dataset

Precision = Literal["float32", "bfloat16", "float16"]
Notify = Callable[[str], None]

DEFAULT_MODEL = "facebook/detr-resnet-50"

RECIPE = "recipe.yaml"
"""Recipe in the output folder that repeats the training."""

UNLIMITED_QUERIES = 10**9
"""Queries follow the dataset, so that the dataset check needs no limit."""

SAMPLES_IN_REPORT = 12
"""Augmented training images in the HTML report."""

LOGGING_STEPS = 50
"""Losses are logged after this number of steps, and at least once an epoch."""

CHANGEABLE = {"num_train_epochs", "max_steps", "dataloader_num_workers", "report_to", "use_cpu", "push_to_hub"}
"""Settings that may differ when a training resumes."""


UNDECIDED = "size-ambiguous"
"""Kind of error that cleaning cannot mend, since only the user knows the answer."""


class FaultyDatasetError(DatasetError):
    """The dataset has errors that would make training fail or spoil it; `report` lists them."""

    def __init__(self, report: CheckReport):
        self.report = report
        errors = [finding for finding in report.findings if finding.severity == Severity.ERROR]
        message = str(errors[0])
        if report.dataset is not None:
            count = "1 error" if len(errors) == 1 else f"{len(errors)} errors, the first"
            advice = "Repair the dataset, or leave the faulty entries out with clean=True (--clean)."
            if undecided := report.by_code().get(UNDECIDED):
                message = str(undecided[0])
                advice = "Write a corrected copy that says it: `detr check DATA --fix DIR --boxes-in image|stated`."
            message = f"{report.name}: {count}: {message}. {advice}"
        super().__init__(message)


@dataclass(frozen=True)
class TrainingOptions:
    """Options that `train`, `preview` and `check_overfit` share; `train` documents them."""

    model: str | Path = DEFAULT_MODEL
    epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    size: int | None = None
    queries: int | None = None
    backbone_weights: str | Path | None = None
    freeze: Sequence[str] = ()
    lora_rank: int = 0
    masks: bool = False
    channels: int | None = None
    precision: Precision = "float32"
    workers: int = 2
    seed: int = 0
    clean: bool = False
    settings: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the given options as fields of `DetrTrainingArguments`; `settings` come last.

        Raises:
            ValueError: `settings` names an unknown field.
        """
        values = {
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "freeze": list(self.freeze) or None,
            "lora_rank": self.lora_rank or None,
            "bf16": self.precision == "bfloat16" or None,
            "fp16": self.precision == "float16" or None,
            "dataloader_num_workers": self.workers,
            "seed": self.seed,
        }
        known = DetrTrainingArguments.__dataclass_fields__
        for name in self.settings or {}:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"settings: DetrTrainingArguments has no field {name!r}{hint}")
        return {name: value for name, value in values.items() if value is not None} | dict(self.settings or {})


@dataclass(frozen=True)
class TrainingRun:
    """Result of a training.

    Attributes:
        output_dir: Folder of the best model, the checkpoints, `recipe.yaml` and `training.html`.
        metrics: COCO's metrics of the best checkpoint on the validation images, from 0 to 100, such as "AP", "AP50"
            and "mask_AP"; empty if the training was never evaluated.
        best_metric: Value that selected the best checkpoint, in [0, 1]; None if the training was never evaluated.
        best_metric_name: Name of this value in `metrics`: "AP", or "mask_AP" for a segmentation model.
        notes: Messages about data and model, in order.
        trainer: The trainer, with the log in `trainer.state.log_history`.
    """

    output_dir: Path
    metrics: dict[str, float]
    best_metric: float | None
    best_metric_name: str
    notes: tuple[str, ...] = field(repr=False)
    trainer: DetrTrainer = field(repr=False)

    @property
    def model(self) -> str:
        """Folder of the best model, for `Detector`, `evaluate` and `export_model`."""
        return str(self.output_dir)


def train(
    dataset: str | Path | DetectionDataset,
    *,
    output_dir: str | Path,
    model: str | Path = DEFAULT_MODEL,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    size: int | None = None,
    queries: int | None = None,
    backbone_weights: str | Path | None = None,
    freeze: Sequence[str] = (),
    lora_rank: int = 0,
    masks: bool = False,
    channels: int | None = None,
    precision: Precision = "float32",
    workers: int = 2,
    seed: int = 0,
    clean: bool = False,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    notify: Notify | None = None,
) -> TrainingRun:
    """Fine-tune a pretrained model, or train the model of a recipe, on a labeled dataset.

    A pretrained model gets the classes of the dataset. A segmentation model trains masks too. A dataset without
    validation images gives a fifth of its training images to validation. The best model is saved in `output_dir`.

    Args:
        dataset: The dataset, or its folder, file or Hub name.
        output_dir: Folder for model and checkpoints.
        model: Name on the Hub, folder, name of a recipe, or a recipe's `.yaml` file.
        epochs: Passes over the training images; default: by their number.
        batch_size: Images per batch and process; default: the recipe's, or 4.
        learning_rate: Learning rate; default: by the number of training images.
        size: Shorter side of images in pixels; default: the model's.
        queries: Number of object queries; default: the model's, or more if an image has more objects.
        backbone_weights: File with timm's weights for the backbone of a recipe's fresh model.
        freeze: Parts to freeze: "backbone", "encoder", "decoder", …, or prefixes of parameter names.
        lora_rank: Train LoRA adapters of this rank instead of the transformer's weights; 0 trains the weights.
        masks: Add a mask head to a trained detector and train it.
        channels: Channels of the images; default: the model's. A pretrained model is adapted as timm does it.
        precision: Floating-point type of the computation; weights stay float32.
        workers: Number of processes that load images.
        seed: Seed of all random numbers; also sets the global seeds.
        clean: Train on the cleaned dataset, as `check_dataset` would write it, instead of refusing a faulty one.
        resume: Resume the training in `output_dir` from its last checkpoint.
        settings: Further fields of `DetrTrainingArguments` by name; they override the arguments above.
        callbacks: Callbacks of the trainer, such as `training.progress_callback.ProgressBar`.
        notify: Called with each message about data and model; warnings begin with "Warning: ".

    Returns:
        The folder of the model, the metrics of the best checkpoint, and the trainer.

    Raises:
        FaultyDatasetError: The dataset has errors and `clean` is not set.
        DatasetError: The dataset cannot be read.
        LoadingError: The model cannot be loaded.
        ValueError: An argument, setting or recipe is invalid; `output_dir` already holds a training and `resume` is
            not set; or the training to resume is missing or had other settings.
        FileNotFoundError: The file of backbone weights does not exist.
        ImportError: LoRA is requested and peft is not installed.
    """
    output = Path(output_dir)
    if not resume and any(output.glob("checkpoint-*")):
        raise ValueError(f"{output} already holds a training; resume it (--resume), or choose another folder")
    checkpoint = get_last_checkpoint(str(output)) if resume and output.is_dir() else None
    if resume and checkpoint is None:
        raise ValueError(f"{output} holds no checkpoint to resume from; start without resume (--resume)")
    options = TrainingOptions(
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        size=size,
        queries=queries,
        backbone_weights=backbone_weights,
        freeze=freeze,
        lora_rank=lora_rank,
        masks=masks,
        channels=channels,
        precision=precision,
        workers=workers,
        seed=seed,
        clean=clean,
        settings=settings,
    )
    prepared = _prepare(dataset, options, notify)
    recipe = prepared.recipe()
    if resume:
        _refuse_other_settings(recipe, read_recipe(output / RECIPE))
    setup = prepared.setup
    arguments = DetrTrainingArguments(**prepared.arguments | {"output_dir": str(output)})
    trainer = DetrTrainer(setup.model, arguments, prepared.dataset, setup.processor, callbacks=list(callbacks))
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        name = prepared.dataset.name
        write_recipe(recipe, output / RECIPE, f"Repeat with: detr train --data {name} --model THIS_FILE --output DIR")
        _add_report(trainer, recipe, output, prepared.note)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    return _result(trainer, output, prepared.note.messages)


def preview(
    dataset: str | Path | DetectionDataset, *, count: int = 24, notify: Notify | None = None, **options: Any
) -> Image.Image:
    """Draw a contact sheet of augmented training images with their boxes, the inputs of the model.

    Args:
        dataset: The dataset, or its folder, file or Hub name.
        count: Number of samples.
        notify: Called with each message about data and model.
        **options: Fields of `TrainingOptions`, such as `model` and `size`.

    Returns:
        The sheet.

    Raises:
        ValueError: As for `train`.
    """
    prepared = _prepare(dataset, TrainingOptions(**options), notify)
    arguments = DetrTrainingArguments(**prepared.arguments)
    setup = prepared.setup
    samples = training_dataset(prepared.dataset, arguments, setup.with_masks, setup.processor.num_channels)
    return contact_sheet(samples, prepared.dataset.class_names, arguments.edges, count, arguments.seed)


def check_overfit(
    dataset: str | Path | DetectionDataset,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    notify: Notify | None = None,
    **options: Any,
) -> OverfitResult:
    """Check that the model can overfit eight training images; nothing is saved.

    Args:
        dataset: The dataset, or its folder, file or Hub name.
        callbacks: Callbacks of the trainer.
        notify: Called with each message about data and model.
        **options: Fields of `TrainingOptions`, such as `model` and `learning_rate`.

    Returns:
        The AP on these images and the verdict.

    Raises:
        ValueError: As for `train`.
    """
    prepared = _prepare(dataset, TrainingOptions(**options), notify)
    setup = prepared.setup
    steps = STEPS["pretrained" if isinstance(setup.source, str) else "fresh"]
    with TemporaryDirectory() as folder:
        arguments = prepared.arguments | {"output_dir": folder}
        return overfit(setup.model, setup.processor, prepared.dataset, arguments, steps, callbacks)


class _Notes:
    """Keep each message and pass it on."""

    def __init__(self, notify: Notify | None):
        self.notify = notify
        self.messages: list[str] = []

    def __call__(self, message: str) -> None:
        self.messages.append(message)
        if self.notify is not None:
            self.notify(message)


@dataclass(frozen=True)
class _Prepared:
    """Checked dataset, adapted model, and fields of `DetrTrainingArguments`."""

    dataset: DetectionDataset
    setup: ModelSetup
    arguments: dict[str, Any]
    note: _Notes

    def recipe(self) -> Recipe:
        """Return the recipe that repeats the training, of plain YAML values."""
        settings = {name: value for name, value in self.arguments.items() if name not in ("output_dir", "disable_tqdm")}
        plain = json.loads(json.dumps(settings, default=str))
        return Recipe(self.setup.source, json.loads(self.setup.processor.to_json_string()), plain)


def _prepare(dataset: str | Path | DetectionDataset, options: TrainingOptions, notify: Notify | None) -> _Prepared:
    """Check the dataset, adapt the model, and combine the arguments: defaults, recipe, options, `settings`."""
    fields = options.fields()
    note = _Notes(notify)
    checked = _checked_dataset(dataset, options.clean, options.seed, note)
    set_seed(options.seed)
    note(f"Loading {options.model}.")
    weights = None if options.backbone_weights is None else Path(options.backbone_weights)
    setup = set_up_model(
        str(options.model), checked, options.size, options.queries, weights, options.masks, options.channels
    )
    for message in setup.notes:
        note(message)
    for message in setup.warnings:
        note(f"Warning: {message}")
    loggers = [name for name in ("tensorboard",) if importlib.util.find_spec(name)]
    arguments: dict[str, Any] = {"per_device_train_batch_size": 4, "report_to": loggers or "none", "disable_tqdm": True}
    arguments |= setup.training | fields
    per_epoch = max(len(checked.split("train")) // arguments["per_device_train_batch_size"], 1)
    arguments.setdefault("logging_steps", min(per_epoch, LOGGING_STEPS))
    return _Prepared(checked, setup, arguments, note)


def _checked_dataset(source: str | Path | DetectionDataset, clean: bool, seed: int, note: Notify) -> DetectionDataset:
    """Read and check a dataset, clean it if wanted, and split validation images off if there are none.

    Raises:
        FaultyDatasetError: The dataset has errors and `clean` is not set, or nothing tells what its boxes mean.
    """
    note(f"Checking {source.name if isinstance(source, DetectionDataset) else source}.")
    report = check_dataset(source, quick=True, num_queries=UNLIMITED_QUERIES)
    undecided = UNDECIDED in report.by_code()
    if report.dataset is None or undecided or (report.count(Severity.ERROR) and not clean):
        raise FaultyDatasetError(report)
    dataset = report.cleaned() if clean else report.dataset
    if warnings := report.count(Severity.WARNING):
        note(f"Warning: the dataset check has {warnings} warnings; `detr check {report.name}` lists them.")
    had_validation = "val" in dataset.splits
    dataset = dataset.with_validation(seed=seed)
    train_images, val_images = len(dataset.split("train")), len(dataset.split("val"))
    origin = "" if had_validation else ", split off the training images"
    note(f"Data: {train_images} training images, {val_images} validation images{origin}.")
    return dataset


def _refuse_other_settings(recipe: Recipe, before: Recipe) -> None:
    """Raise ValueError if a training would resume with other settings; more epochs are allowed."""
    now, then = ({"model": r.model, "processor": r.processor, **r.training} for r in (recipe, before))
    differing = [name for name in {**then, **now} if name not in CHANGEABLE and now.get(name) != then.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {then.get(name)!r} and is now {now.get(name)!r}" for name in differing)
        raise ValueError(f"resume: the training started with other settings: {changes}")


def _add_report(trainer: DetrTrainer, recipe: Recipe, output: Path, note: Notify) -> None:
    """Add the callback that writes `training.html`, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        note("training.html needs matplotlib: pip install matplotlib")
        return
    from transformers_detr.training.training_report import PAGE, TrainingPageCallback

    args, dataset = trainer.args, trainer.dataset
    sheet = contact_sheet(trainer.train_dataset, dataset.class_names, args.edges, SAMPLES_IN_REPORT, args.seed)
    settings = {"dataset": dataset.name, "model": recipe.model, **recipe.training}
    trainer.add_callback(TrainingPageCallback(output, f"Training on {dataset.name}", settings, sheet))
    note(f"Curves, updated after each evaluation: {output / PAGE}")


def _result(trainer: DetrTrainer, output: Path, notes: Sequence[str]) -> TrainingRun:
    """Collect the metrics of the best evaluation, or of the last one."""
    state = trainer.state
    name = str(trainer.args.metric_for_best_model)
    evaluations = [entry for entry in state.log_history if any(key.startswith("eval_") for key in entry)]
    best = next((entry for entry in evaluations if entry.get(name) == state.best_metric), None)
    entry = best or (evaluations[-1] if evaluations else {})
    metrics = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    return TrainingRun(output, metrics, state.best_metric, name.removeprefix("eval_"), tuple(notes), trainer)
