"""`detr serve`: serve models over HTTP, with a demo page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from transformers_detr.cli.options import BackendName, Device, DtypeName, PrecisionName, exported_options
from transformers_detr.serving.limits import Limits

MEGA = 1_000_000
TOKEN_VARIABLE = "DETR_SERVE_TOKEN"

Deployment = Literal["space", "endpoint"]


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            rich_help_panel="Model",
            metavar="[NAME=]NAME|DIR",
            help="Name on the Hub, or a folder with a saved model. Repeat for several models: the first one serves"
            " POST / and is loaded at startup, the others on their first request.",
            show_default="facebook/detr-resnet-50",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(rich_help_panel="Server", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            rich_help_panel="Server", metavar="N", min=0, max=65535, help="Port to listen on; 0 selects a free one."
        ),
    ] = 8000,
    device: Device = None,
    dtype: DtypeName = None,
    backend: BackendName = None,
    precision: PrecisionName = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            "-b",
            rich_help_panel="Limits",
            metavar="N",
            min=1,
            help="Largest number of images in a batch.",
        ),
    ] = Limits.batch_size,
    batch_wait: Annotated[
        float,
        typer.Option(
            rich_help_panel="Limits",
            metavar="MS",
            min=0,
            help="Time that an image waits for others to share its batch.",
        ),
    ] = 1000 * Limits.batch_wait_seconds,
    queue: Annotated[
        int,
        typer.Option(
            rich_help_panel="Limits",
            metavar="N",
            min=1,
            help="Requests in flight per model; further ones get status 503.",
        ),
    ] = Limits.queue_size,
    timeout: Annotated[
        float, typer.Option(rich_help_panel="Limits", metavar="S", min=0.1, help="Time limit of a response.")
    ] = Limits.response_seconds,
    max_megabytes: Annotated[
        float, typer.Option(rich_help_panel="Limits", metavar="MB", min=0.001, help="Largest encoded image.")
    ] = Limits.image_bytes / MEGA,
    max_megapixels: Annotated[
        float, typer.Option(rich_help_panel="Limits", metavar="MP", min=0.001, help="Largest image.")
    ] = Limits.pixels / MEGA,
    token: Annotated[
        str | None,
        typer.Option(
            rich_help_panel="Server",
            envvar=TOKEN_VARIABLE,
            metavar="TOKEN",
            help="Bearer token that clients must send. Prefer the environment variable: `ps` shows options.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool,
        typer.Option("--allow-urls", rich_help_panel="Server", help="Fetch images by URL, from public addresses only."),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel="Server",
            metavar="NAME",
            help="Name that clients use for this service, besides localhost and addresses (repeatable; * for any).",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel="Server",
            metavar="ORIGIN",
            help="Origin of other web pages that may call it, such as https://example.org (repeatable; * for any).",
        ),
    ] = None,
    preload: Annotated[
        bool, typer.Option("--preload", rich_help_panel="Model", help="Load all models at startup.")
    ] = False,
    write: Annotated[
        Deployment | None,
        typer.Option(
            rich_help_panel="Deployment",
            metavar="space|endpoint",
            help="Do not serve, but write a Space (also a container) or the handler of an Inference Endpoint to"
            " --output.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel="Deployment", metavar="DIR", help="Folder to create."),
    ] = None,
) -> None:
    """Serve models over HTTP in the formats of the Hub's inference API, with a demo page.

    The page is at /, the API description at /openapi.json, Prometheus metrics at /metrics. A request:

    `curl --data-binary @photo.jpg "http://127.0.0.1:8000/?threshold=0.7"`

    In Python, `huggingface_hub.InferenceClient(model="http://127.0.0.1:8000")` has `object_detection("photo.jpg")`.
    """
    if backend is not None and dtype is not None:
        raise typer.BadParameter("--dtype does not apply to exported models; use --precision")
    names = models or ["facebook/detr-resnet-50"]
    if (write is None) != (output is None):
        raise typer.BadParameter("--write and --output need each other")
    if write is not None and output is not None:
        _write(write, output, names)
        return
    _check_installed()
    from transformers.utils import logging as transformers_logging

    from transformers_detr.serving.app import create_app
    from transformers_detr.serving.model_registry import model_loaders
    from transformers_detr.serving.server import LOGGING, make_server

    transformers_logging.disable_progress_bar()
    limits = Limits(
        image_bytes=round(max_megabytes * MEGA),
        pixels=round(max_megapixels * MEGA),
        queue_size=queue,
        batch_size=batch_size,
        batch_wait_seconds=batch_wait / 1000,
        response_seconds=timeout,
    )
    options = {"device": device, **(exported_options(backend, precision) or {"dtype": dtype})}
    try:
        loaders = model_loaders(names, **options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--model") from error
    if token is None:  # typer takes an empty variable for none
        token = os.environ.get(TOKEN_VARIABLE)
    try:
        app = create_app(
            loaders,
            limits,
            token=token,
            allow_urls=allow_urls,
            preload=preload,
            allow_hosts=[host, *(allow_host or [])],
            allow_origins=allow_origin or [],
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--token") from error
    make_server(app, host, port, limits, log_config=LOGGING).run()


def _write(write: Deployment, output: Path, models: list[str]) -> None:
    from transformers_detr.serving.write_deployment import write_deployment

    try:
        write_deployment(write, output, models)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    Console(soft_wrap=True, highlight=False).print(f"Written: {escape(str(output))} (see its README)")


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise typer.BadParameter(
            f"detr serve needs {error.name}: install transformers-detr with its extra 'serve'"
        ) from error
