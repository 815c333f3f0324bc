"""`detr train`: fine-tune a model, or train one from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from transformers_detr.cli.image_run import Dtype


def train(
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="DATASET", help="Folder or file (COCO, VOC, YOLO …), or Hub name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for model and checkpoints.")],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="MODEL|RECIPE", help="Name on the Hub, folder, recipe or its .yaml file."
        ),
    ] = "facebook/detr-resnet-50",
    epochs: Annotated[
        float | None, typer.Option(min=0, help="Passes over the images.", show_default="by number of images")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", "-b", min=1, help="Images at once.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--lr", min=0, help="Learning rate.", show_default="by number of images")
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", min=16, help="Shorter side.", show_default="as the model says")
    ] = None,
    queries: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Object queries.", show_default="as many as are needed")
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for the backbone of a recipe, as timm names them.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="What does not learn: backbone, encoder, decoder …")
    ] = None,
    lora: Annotated[int, typer.Option(metavar="RANK", min=0, help="Train LoRA additions of this rank instead.")] = 0,
    masks: Annotated[
        bool, typer.Option("--masks", help="Give a trained detector parts for masks, and train those.")
    ] = False,
    precision: Annotated[Dtype, typer.Option(help="What to compute in.")] = Dtype.float32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load images.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any field of DetrTrainingArguments.")
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Train on what `detr check --fix` would leave of a faulty dataset.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training that DIR holds.")] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only draw what the model would see, into DIR/preview.jpg.")
    ] = False,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Only try whether eight images can be learned by heart.")
    ] = False,
) -> None:
    """Train a detector on a labeled dataset.

    A pretrained model is fine-tuned: its classes become those of the dataset, and epochs and learning rate
    follow from the number of images. A segmentation model learns masks too. A recipe starts afresh, or
    from the model that it names. The best model ends up in DIR, ready for `detr detect --model DIR`. Several
    processes share the work with `torchrun --nproc-per-node N --no-python detr train …`, several machines with
    `--nnodes` too; `accelerate launch --no_python` does as well.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with console.status("Loading"):
        from transformers_detr.cli import training_run as run
        from transformers_detr.evaluation.distributed import leave_processes
    console.quiet = not run.is_first_process()
    given = {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "freeze": freeze,
        "lora_rank": lora or None,
        "bf16": precision is Dtype.bfloat16 or None,
        "fp16": precision is Dtype.float16 or None,
        "dataloader_num_workers": workers,
        "seed": seed,
    }
    try:
        run.refuse_to_overwrite(output, resume or preview or sanity)
        dataset = run.read_dataset(data, clean, seed, console)
        start = run.start(model, dataset, size, queries, backbone, masks, seed, console)
        arguments = run.arguments(output, start, given, settings or [], len(dataset.split("train")))
        if preview:
            run.write_preview(start, arguments, dataset, output / "preview.jpg", console)
        elif sanity:
            run.try_eight_images(start, arguments, dataset, console)
        else:
            run.train(start, arguments, dataset, output, resume, console)
    except (OSError, ValueError, ImportError) as error:
        console.print(f"[red]Nothing was trained.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    finally:
        leave_processes()
