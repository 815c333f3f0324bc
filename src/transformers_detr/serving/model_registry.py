"""Registry of models: loaders by name, and the state of each model."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from transformers_detr.hub.loading import LoadingError, holds_segmentation, is_path
from transformers_detr.inference.detector import Detector, Segmenter
from transformers_detr.serving.batching import Batcher, ModelExecutor
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.runner import ModelRunner

ModelState = Literal["unloaded", "loading", "ready", "failed"]

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 30.0
_MAX_RETRY_AFTER_SECONDS = 60
_LOADING_LOCK = threading.Lock()  # loading changes torch's default dtype temporarily


def model_loaders(models: Sequence[str], **options: Any) -> dict[str, Callable[[], ModelRunner]]:
    """Return the function that loads each model, by the name under which it is served.

    Args:
        models: Each a name on the Hub or a folder, optionally with `NAME=` before it. Without it, a model is served
            under its name on the Hub or the name of its folder.
        **options: Arguments of `from_pretrained`, such as `device` and `dtype`.

    Raises:
        ValueError: Two models have the same name.
    """
    loaders: dict[str, Callable[[], ModelRunner]] = {}
    for entry in models:
        name, _, source = entry.rpartition("=")
        if not name:
            name = Path(source).expanduser().resolve().name if is_path(source) else source
        if name in loaders:
            raise ValueError(f"two models are called {name}; rename one of them: NAME={source}")
        loaders[name] = partial(load_model, source, **options)
    return loaders


def load_model(source: str, **options: Any) -> ModelRunner:
    """Load a detector or segmenter, according to its configuration, and warm it up.

    Args:
        source: Name on the Hub, or folder.
        **options: Arguments of `from_pretrained`.

    Raises:
        LoadingError: The model cannot be loaded.
    """
    predictor_class = Segmenter if holds_segmentation(source) else Detector
    runner = ModelRunner(predictor_class.from_pretrained(source, **options))
    runner.warm_up()
    return runner


class RegisteredModel:
    """Model with a name, loaded on its first request.

    Args:
        name: Name in `/models/{name}`.
        load: Function that loads the model; called in a thread.
        limits: Limits of the service.
        executor: Runs all models of the service.
        observe: Called with the size of each batch.

    Attributes:
        state: "unloaded" until the first request.
        reason: Error message if loading failed.
        runner: The loaded model, if ready.
        in_flight: Number of requests in progress.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], ModelRunner],
        limits: Limits,
        executor: ModelExecutor,
        observe: Callable[[int], None],
    ):
        self.name = name
        self.state: ModelState = "unloaded"
        self.reason: str | None = None
        self.runner: ModelRunner | None = None
        self.in_flight = 0
        self._load = load
        self._limits = limits
        self._executor = executor
        self._observe = observe
        self._batcher: Batcher | None = None
        self._loading: asyncio.Task[None] | None = None
        self._failed_at = -math.inf

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a slot of the queue during a request.

        Raises:
            ServiceError: 503, the queue is full.
        """
        if self.in_flight >= self._limits.queue_size:
            seconds_each = self._batcher.seconds_per_image if self._batcher else 1.0
            seconds = min(max(1, math.ceil(self.in_flight * seconds_each)), _MAX_RETRY_AFTER_SECONDS)
            raise ServiceError(HTTPStatus.SERVICE_UNAVAILABLE, "the queue is full; try again later", seconds)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def start_loading(self) -> None:
        """Start loading, unless the model is loaded, loading, or failed a moment ago."""
        failed_recently = self.state == "failed" and time.monotonic() < self._failed_at + _RETRY_SECONDS
        if self.runner is None and self._loading is None and not failed_recently:
            self.state = "loading"
            self._loading = asyncio.create_task(self._load_in_thread())

    async def get(self) -> tuple[ModelRunner, Batcher]:
        """Return the model and its batcher, loaded if necessary.

        Raises:
            ServiceError: 503, the model cannot be loaded. Loading is retried after half a minute at the earliest.
        """
        self.start_loading()
        if self._loading is not None:
            await asyncio.shield(self._loading)
        if self.runner is None or self._batcher is None:
            raise ServiceError(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the model {self.name} could not be loaded", int(_RETRY_SECONDS)
            )
        return self.runner, self._batcher

    async def close(self) -> None:
        """Cancel loading and stop the batcher."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._batcher is not None:
            await self._batcher.close()

    async def _load_in_thread(self) -> None:
        try:
            runner = await _run_in_daemon_thread(self._load)
        except Exception as error:
            self.state, self._failed_at = "failed", time.monotonic()
            self.reason = str(error) if isinstance(error, LoadingError) else f"{type(error).__name__}: {error}"
            logger.warning("the model %s could not be loaded: %s", self.name, self.reason)
        else:
            self.runner, self._batcher = runner, Batcher(runner, self._limits, self._executor, self._observe)
            self.state, self.reason = "ready", None
            logger.info("the model %s is ready", self.name)
        finally:
            self._loading = None


async def _run_in_daemon_thread(load: Callable[[], ModelRunner]) -> ModelRunner:
    """Load in a daemon thread, so that a long download does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ModelRunner] = loop.create_future()

    def set_outcome(runner: ModelRunner | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif runner is not None:
            future.set_result(runner)

    def run() -> None:
        runner, failure = None, None
        try:
            with _LOADING_LOCK:
                runner = load()
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(set_outcome, runner, failure)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await future
