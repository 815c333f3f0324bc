"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich.console import Console
from rich.markup import escape

from transformers_detr.backends.registry import BACKENDS, PRECISIONS, Backend, Precision, titles

if TYPE_CHECKING:
    from transformers_detr.inference.predictor import Predictor

Dtype = Literal["float32", "bfloat16", "float16"]

Inputs = Annotated[
    list[str],
    typer.Argument(metavar="PHOTO|FOLDER|GLOB|URL...", help="Images, folders of images, patterns, URLs."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        rich_help_panel="Model",
        metavar="NAME|DIR",
        help="Name on the Hub, or a folder with a saved model.",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", rich_help_panel="Output", metavar="DIR", help="Folder for the results.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", rich_help_panel="Model", metavar="N", min=1, help="Images per batch.")
]
Device = Annotated[
    str | None,
    typer.Option(
        rich_help_panel="Model",
        metavar="NAME",
        help="Device, such as cpu, cuda or cuda:1; with --backend, a device of the backend.",
        show_default="an accelerator if there is one, cpu with --backend",
    ),
]
DtypeName = Annotated[
    Dtype | None,
    typer.Option(
        rich_help_panel="Model",
        metavar="|".join(get_args(Dtype)),
        help="Dtype of the computation.",
        show_default="as stored",
    ),
]
BackendName = Annotated[
    Backend | None,
    typer.Option(
        "--backend",
        rich_help_panel="Model",
        metavar="|".join(BACKENDS),
        help=f"Run an exported model with this backend: {titles()}.",
        show_default="the weights in PyTorch",
    ),
]
PrecisionName = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        rich_help_panel="Model",
        metavar="|".join(PRECISIONS),
        help="Precision of the exported model to run.",
        show_default="fp32",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(rich_help_panel="Model", metavar="NAME", help="Branch, tag or commit of the model on the Hub."),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", rich_help_panel="Input", help="Search subfolders.")]
SaveImages = Annotated[
    bool, typer.Option("--images/--no-images", rich_help_panel="Output", help="Write annotated images.")
]
Resume = Annotated[bool, typer.Option("--resume", rich_help_panel="Output", help="Resume the run in DIR.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", rich_help_panel="Output", help="Replace the results in DIR.")]


def exported_options(backend: Backend | None, precision: Precision | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for an exported model; none, where PyTorch runs the weights."""
    if backend is None:
        if precision is not None:
            raise typer.BadParameter("needs --backend; for PyTorch use --dtype", param_hint="--precision")
        return {}
    return {"backend": backend, "precision": precision or "fp32"}


def load_predictor(
    predictor: str | None,
    options: dict[str, Any],
    model: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    console: Console,
) -> Predictor[Any]:
    """Load a Detector or Segmenter, or end the command with a clear message.

    Args:
        predictor: "Detector" or "Segmenter"; None takes the one that the model's configuration says.
        options: Further arguments of its `from_pretrained`.
        model: Name or folder.
        device: Where to run.
        dtype: What to compute in.
        revision: Branch, tag or commit.
        console: For status and errors.

    Raises:
        typer.Exit: The model cannot be loaded.
        typer.BadParameter: The device cannot be used.
    """
    if dtype is not None and "backend" in options:
        raise typer.BadParameter("does not apply to exported models; use --precision", param_hint="--dtype")
    with console.status(f"Loading {escape(model)}"):
        from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
        from huggingface_hub.utils.tqdm import enable_progress_bars
        from transformers.utils import logging

        from transformers_detr.hub.loading import DeviceError, LoadingError, check_device, holds_segmentation
        from transformers_detr.inference import detector

        logging.disable_progress_bar()  # for reading weights, which takes a moment; downloads keep theirs
        if not HF_HUB_DISABLE_PROGRESS_BARS:
            enable_progress_bars()
        if predictor is None:
            predictor = "Segmenter" if holds_segmentation(model, revision) else "Detector"
        try:
            if "backend" not in options:  # a backend has its own device names
                check_device(device)
            predictor_class = getattr(detector, predictor)
            return predictor_class.from_pretrained(model, device=device, dtype=dtype, revision=revision, **options)
        except DeviceError as error:
            raise typer.BadParameter(str(error), param_hint="--device") from error
        except (LoadingError, ValueError) as error:
            console.print(f"[red]The model cannot be loaded.[/] {escape(str(error))}")
            raise typer.Exit(1) from error
