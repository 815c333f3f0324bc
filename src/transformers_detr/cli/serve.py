"""`detr serve`: models behind HTTP, with a page to try them on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from transformers_detr.cli.image_run import BackendName, Device, DtypeName, PrecisionName, exported_options
from transformers_detr.serving.limits import Limits

MEGA = 1_000_000


class Deployment(StrEnum):
    """A folder that another place runs."""

    space = "space"
    endpoint = "endpoint"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]NAME|DIR",
            help="Name on the Hub, or a folder with a saved model; several times for several models. The first one"
            " answers POST / and is loaded at once, the others when they are first asked.",
            show_default="facebook/detr-resnet-50",
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    device: Device = None,
    dtype: DtypeName = None,
    backend: BackendName = None,
    precision: PrecisionName = None,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", "-b", metavar="N", min=1, help="Pictures that may go through a model at once."),
    ] = Limits.batch_size,
    batch_wait: Annotated[
        float, typer.Option(metavar="MS", min=0, help="How long a picture may wait for others that are on their way.")
    ] = 1000 * Limits.batch_wait_seconds,
    queue: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests under way for each model; more are answered with 503.")
    ] = Limits.waiting,
    timeout: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Longest time to an answer.")
    ] = Limits.answer_seconds,
    max_megabytes: Annotated[
        float, typer.Option(metavar="MB", min=0.001, help="Largest encoded picture.")
    ] = Limits.picture_bytes / MEGA,
    max_megapixels: Annotated[float, typer.Option(metavar="MP", min=0.001, help="Largest picture.")] = Limits.pixels
    / MEGA,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="DETR_SERVE_TOKEN",
            metavar="TOKEN",
            help="Bearer token that clients must send. Better in the environment than here, where `ps` shows it.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures whose URL is sent, from public addresses only.")
    ] = False,
    preload: Annotated[bool, typer.Option("--preload", help="Load all models at once.")] = False,
    write: Annotated[
        Deployment | None,
        typer.Option(
            metavar="|".join(Deployment),
            help="Serve nothing, but write the folder of a Space (also a container), or the handler of an Inference"
            " Endpoint, to --output.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")] = None,
) -> None:
    """Serve models over HTTP, in the forms of the Hub's inference API, with a page to try them on.

    `huggingface_hub.InferenceClient(model="http://127.0.0.1:8000").object_detection("photo.jpg")` works as it stands;
    so does `curl --data-binary @photo.jpg "http://127.0.0.1:8000/?threshold=0.7"`. The page is at the same address,
    the description of the interface at /openapi.json, counters for Prometheus at /metrics.
    """
    if backend is not None and dtype is not None:
        raise typer.BadParameter("what detr export wrote has its --precision, no --dtype")
    names = models or ["facebook/detr-resnet-50"]
    if (write is None) != (output is None):
        raise typer.BadParameter("--write and --output go together")
    if write is not None and output is not None:
        _write(write, output, names)
        return
    _check_installed()
    from transformers.utils import logging as transformers_logging

    from transformers_detr.serving.app import create_app
    from transformers_detr.serving.model_loading import model_loaders
    from transformers_detr.serving.server import LOGGING, make_server

    transformers_logging.disable_progress_bar()
    limits = Limits(
        picture_bytes=round(max_megabytes * MEGA),
        pixels=round(max_megapixels * MEGA),
        waiting=queue,
        batch_size=batch_size,
        batch_wait_seconds=batch_wait / 1000,
        answer_seconds=timeout,
    )
    options = {"device": device, **(exported_options(backend, precision) or {"dtype": dtype})}
    try:
        loaders = model_loaders(names, **options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--model") from error
    app = create_app(loaders, limits, token=token, allow_urls=allow_urls, preload=preload)
    make_server(app, host, port, limits, log_config=LOGGING).run()


def _write(write: Deployment, output: Path, models: list[str]) -> None:
    from transformers_detr.serving.deployment_folder import write_deployment

    try:
        write_deployment(write.value, output, models)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    Console(soft_wrap=True, highlight=False).print(f"Written: {escape(str(output))}; its README says how to use it.")


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise typer.BadParameter(f"detr serve needs {error.name}: pip install 'transformers-detr[serve]'") from error
