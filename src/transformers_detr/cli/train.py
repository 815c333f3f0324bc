"""`detr train`: fine-tune a model, or train one from a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from transformers_detr.data.readers import DATASET_HELP

if TYPE_CHECKING:
    from transformers_detr.training.overfit_check import OverfitResult
    from transformers_detr.training.training_workflow import TrainingRun

ADVICE = "Check the boxes with --preview. If they fit, change the learning rate (--lr)."


def train(
    data: Annotated[str, typer.Option("--data", "-d", rich_help_panel="Data", metavar="DATASET", help=DATASET_HELP)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", rich_help_panel="Output", metavar="DIR", help="Folder for model and checkpoints."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            rich_help_panel="Model",
            metavar="MODEL|RECIPE",
            help="Name on the Hub, folder, recipe or its .yaml file.",
        ),
    ] = "facebook/detr-resnet-50",
    epochs: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Training",
            metavar="N",
            min=0,
            help="Passes over the images.",
            show_default="by number of images",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            "-b",
            rich_help_panel="Training",
            metavar="N",
            min=1,
            help="Images per batch.",
            show_default="4",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--lr",
            rich_help_panel="Training",
            metavar="RATE",
            min=0,
            help="Learning rate.",
            show_default="by number of images",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Data",
            metavar="PIXELS",
            min=16,
            help="Resize the shorter side to PIXELS.",
            show_default="the model's",
        ),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Model",
            metavar="N",
            min=1,
            help="Number of object queries.",
            show_default="the model's, or more",
        ),
    ] = None,
    backbone_weights: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel="Model", metavar="FILE", help="timm weights for the backbone of a recipe's model."
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel="Model", metavar="PART", help="Part to freeze: backbone, encoder, decoder … (repeatable)."
        ),
    ] = None,
    lora: Annotated[
        int,
        typer.Option(rich_help_panel="Model", metavar="RANK", min=0, help="Train LoRA adapters of this rank instead."),
    ] = 0,
    masks: Annotated[
        bool,
        typer.Option("--masks", rich_help_panel="Model", help="Add a mask head to a trained detector and train it."),
    ] = False,
    channels: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Model",
            metavar="N",
            min=1,
            help="Number of channels of the images.",
            show_default="the model's",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(
            rich_help_panel="Training", metavar="float32|bfloat16|float16", help="Floating-point type to compute in."
        ),
    ] = "float32",
    workers: Annotated[
        int, typer.Option(rich_help_panel="Data", metavar="N", min=0, help="Number of processes that load images.")
    ] = 2,
    seed: Annotated[
        int, typer.Option(rich_help_panel="Training", metavar="N", min=0, help="Seed of all random numbers.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            rich_help_panel="Training",
            metavar="NAME=VALUE",
            help="Set a field of DetrTrainingArguments (repeatable).",
        ),
    ] = None,
    clean: Annotated[
        bool,
        typer.Option(
            "--clean", rich_help_panel="Data", help="Train on the dataset as `detr check --fix` would correct it."
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", rich_help_panel="Output", help="Resume the training in DIR.")
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            rich_help_panel="Checks before training",
            help="Draw augmented training images into DIR/preview.jpg, then exit.",
        ),
    ] = False,
    sanity: Annotated[
        bool,
        typer.Option(
            "--sanity",
            rich_help_panel="Checks before training",
            help="Check that the model can overfit eight images, then exit.",
        ),
    ] = False,
) -> None:
    """Train a detector on a labeled dataset.

    Fine-tunes a pretrained model: its classes become the classes of the dataset, and the number of images sets epochs
    and learning rate. A segmentation model trains masks too. A recipe trains a new model, or the model that it
    names. DIR receives the best model, ready for `detr detect --model DIR`.

    For several processes, start the command with `torchrun --nproc-per-node N --no-python detr train …` (and
    `--nnodes` for several machines) or `accelerate launch --no_python`.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.quiet = os.environ.get("RANK", "0") != "0"  # one process of several prints
    with console.status("Loading"):
        from transformers.utils import logging

        from transformers_detr.cli.check_output import show_report
        from transformers_detr.evaluation.distributed import leave_processes
        from transformers_detr.training import training_workflow as workflow
        from transformers_detr.training.progress_callback import ProgressBar
    logging.disable_progress_bar()  # of loading weights

    def notify(message: str) -> None:
        text = escape(message)
        console.print(f"[yellow]{text}[/]" if message.startswith("Warning: ") else text)

    try:
        options: dict[str, Any] = {
            "model": model,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "size": size,
            "queries": queries,
            "backbone_weights": backbone_weights,
            "freeze": freeze or (),
            "lora_rank": lora,
            "masks": masks,
            "channels": channels,
            "precision": precision,
            "workers": workers,
            "seed": seed,
            "clean": clean,
            "settings": _parsed(settings or []),
            "notify": notify,
        }
        if preview:
            sheet = workflow.preview(data, **options)
            output.mkdir(parents=True, exist_ok=True)
            sheet.save(output / "preview.jpg")
            console.print(f"Augmented training images: [bold]{escape(str(output / 'preview.jpg'))}[/]")
        elif sanity:
            _show_verdict(workflow.check_overfit(data, callbacks=[ProgressBar()], **options), console)
        else:
            run = workflow.train(data, output_dir=output, resume=resume, callbacks=[ProgressBar()], **options)
            _show_run(run, console)
            del run  # holds the process group, which is left below
    except workflow.FaultyDatasetError as error:
        show_report(error.report, console)
        console.print(f"[red]Nothing was trained.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    except (OSError, ValueError, ImportError) as error:
        console.print(f"[red]Nothing was trained.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    finally:
        leave_processes()


def _parsed(settings: list[str]) -> dict[str, Any]:
    """Split each NAME=VALUE and read the value as YAML."""
    values = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"--set {setting}: must be NAME=VALUE")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting}: VALUE is not YAML: {error}") from error
    return values


def _show_run(run: TrainingRun, console: Console) -> None:
    name = run.best_metric_name.replace("_", " ")
    score = None if run.best_metric is None else f"Best {name} on the validation images: [bold]{run.best_metric:.1f}[/]"
    console.print(score or "Trained.")
    command = "segment" if run.trainer.with_masks else "detect"
    console.print(f"Try it: [bold]detr {command} PHOTO --model {escape(run.model)}[/]")


def _show_verdict(result: OverfitResult, console: Console) -> None:
    """Print the result of the overfit check; exit with status 1 if it failed."""
    ap = f"AP {result.ap:.1f} on eight images"
    if result.verdict == "failed":
        console.print(f"[red]The model does not overfit:[/] {ap}. {ADVICE}")
        raise typer.Exit(1)
    verdict = "[green]Passed:[/] the model overfits" if result.verdict == "passed" else "[yellow]Slow:[/] it learns"
    console.print(f"{verdict}, {ap}.")
