"""A model that the service knows by name, and loads when it is first asked for it."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Literal

from transformers_detr.hub.loading import LoadingError
from transformers_detr.serving.batching import Batcher, ModelTurn
from transformers_detr.serving.errors import Refusal
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.runner import ServedModel

State = Literal["unloaded", "loading", "ready", "failed"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 30.0
_LONGEST_RETRY_SECONDS = 60
_ONE_AT_A_TIME = threading.Lock()  # loading sets torch's default dtype for a moment


class HostedModel:
    """A name, what it stands for, and its state.

    Args:
        name: As in `/models/{name}`.
        load: Loads the model; called in a thread.
        limits: Bounds of the service.
        turn: Shared by all models.
        observe: Called with the size of each batch.

    Attributes:
        state: "unloaded" until somebody asks.
        reason: Why loading failed.
        model: The model, when it is ready.
        under_way: Requests that have a place here.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], ServedModel],
        limits: Limits,
        turn: ModelTurn,
        observe: Callable[[int], None],
    ):
        self.name = name
        self.state: State = "unloaded"
        self.reason: str | None = None
        self.model: ServedModel | None = None
        self.under_way = 0
        self._load = load
        self._limits = limits
        self._turn = turn
        self._observe = observe
        self._batcher: Batcher | None = None
        self._loading: asyncio.Task[None] | None = None
        self._failed_at = -math.inf

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places of this model while its request is under way.

        Raises:
            Refusal: All are taken.
        """
        if self.under_way >= self._limits.waiting:
            each = self._batcher.seconds_per_picture if self._batcher else 1.0
            seconds = min(max(1, math.ceil(self.under_way * each)), _LONGEST_RETRY_SECONDS)
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting; try again later", seconds)
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def begin(self) -> None:
        """Start loading, if there is reason to."""
        failed_just_now = self.state == "failed" and time.monotonic() < self._failed_at + _SECONDS_BETWEEN_TRIES
        if self.model is None and self._loading is None and not failed_just_now:
            self.state = "loading"
            self._loading = asyncio.create_task(self._load_in_thread())

    async def loaded(self) -> tuple[ServedModel, Batcher]:
        """Return the model, loading it if nobody has.

        Raises:
            Refusal: It cannot be loaded. It is tried again at the earliest after half a minute.
        """
        self.begin()
        if self._loading is not None:
            await asyncio.shield(self._loading)
        if self.model is None or self._batcher is None:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the model {self.name} could not be loaded",
                int(_SECONDS_BETWEEN_TRIES),
            )
        return self.model, self._batcher

    async def close(self) -> None:
        """Let go of the model."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        if self._batcher is not None:
            await self._batcher.close()

    async def _load_in_thread(self) -> None:
        try:
            model = await _in_daemon_thread(self._load)
        except Exception as error:
            self.state, self._failed_at = "failed", time.monotonic()
            self.reason = str(error) if isinstance(error, LoadingError) else f"{type(error).__name__}: {error}"
            logger.warning("the model %s could not be loaded: %s", self.name, self.reason)
        else:
            self.model, self._batcher = model, Batcher(model, self._limits, self._turn, self._observe)
            self.state, self.reason = "ready", None
            logger.info("the model %s is ready", self.name)
        finally:
            self._loading = None


async def _in_daemon_thread(load: Callable[[], ServedModel]) -> ServedModel:
    """Load in a thread that does not keep the process from ending, however long a download takes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[ServedModel] = loop.create_future()

    def settle(model: ServedModel | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif model is not None:
            future.set_result(model)

    def work() -> None:
        model, problem = None, None
        try:
            with _ONE_AT_A_TIME:
                model = load()
        except Exception as error:
            problem = error
        with suppress(RuntimeError):  # the service has ended meanwhile
            loop.call_soon_threadsafe(settle, model, problem)

    threading.Thread(target=work, name="loading", daemon=True).start()
    return await future
