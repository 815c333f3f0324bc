"""What tests do in the process that talks to the local server; arguments and results must survive pickling."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WRITER, READER, NOBODY = "hf_writer", "hf_reader", None


@contextlib.contextmanager
def as_user(token: str | None, waits: list[float] | None = None) -> Iterator[None]:
    """Be logged in with a token, or not at all; waiting between attempts takes no time but is written down."""
    import time

    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    waited = [] if waits is None else waits
    clock: Any = types.SimpleNamespace(**{**vars(time), "sleep": waited.append})
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    _http.time = file_download.time = clock
    try:
        yield
    finally:
        _http.time = file_download.time = time


def empty_cache() -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    shutil.rmtree(HF_HUB_CACHE, ignore_errors=True)


def push(folder: Path, repository: str, *options: str, token: str | None = WRITER) -> dict[str, Any]:
    """Run `detr push`; return its exit status, what it printed and how long it would have waited."""
    import typer
    from typer.testing import CliRunner

    from transformers_detr.cli.push import push as command

    app = typer.Typer()
    app.command()(command)
    waits: list[float] = []
    with as_user(token, waits):
        result = CliRunner().invoke(app, [str(folder), repository, *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise RuntimeError(result.output) from result.exception
    return {"status": result.exit_code, "output": result.stdout, "error": result.stderr, "waits": waits}


def convert_and_push(arguments: list[str]) -> int:
    """Run conversion/convert_original.py on a small model, as the published ones are not here."""
    from tiny_detr import tiny_config

    import convert_original

    convert_original.config_of = lambda *_: tiny_config()
    with as_user(WRITER):
        return convert_original.main(arguments)


def load(name: str, *, token: str | None = NOBODY, architecture: str = "DetrForObjectDetection", **options: Any) -> Any:
    """Load with the package; return the weights as bytes by name, or the text of the error."""
    import transformers_detr
    from transformers_detr.hub.loading import LoadingError, load_pretrained

    with as_user(token):
        try:
            model, processor = load_pretrained(getattr(transformers_detr, architecture), name, **options)
        except LoadingError as error:
            return str(error)
    weights = {key: value.numpy().tobytes() for key, value in model.state_dict().items()}
    return weights, model.config.to_json_string(), processor.to_json_string()


def detect(name: str, *, token: str | None = NOBODY, **options: Any) -> Any:
    """Detect in a scene; return boxes as bytes and names, or the text of the error."""
    from transformers_detr import Detector
    from transformers_detr.data.synthetic import make_scene
    from transformers_detr.hub.loading import LoadingError

    with as_user(token):
        try:
            found = Detector.from_pretrained(name, **options)(make_scene(0, 0, (96, 128)).image, threshold=0.0)
        except LoadingError as error:
            return str(error)
    return found.boxes_xyxy_px.tobytes(), found.labels


def run_snippet(code: str, token: str | None = NOBODY) -> str:
    """Run a piece of a card; return what it printed."""
    printed = io.StringIO()
    with as_user(token), contextlib.redirect_stdout(printed):
        exec(compile(code, "card", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def run_command(line: str) -> int:
    """Run a line `detr …`; return its exit status."""
    from transformers_detr.cli import main

    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def validate_card(text: str) -> None:
    """Have huggingface_hub's own class check a card with the server."""
    from huggingface_hub import ModelCard

    with as_user(NOBODY):
        ModelCard(text).validate()
