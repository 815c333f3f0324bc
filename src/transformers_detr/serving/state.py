"""State that all requests share: models, threads and metrics."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from transformers_detr.serving.batching import ModelExecutor
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.handler import RequestHandler
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.metrics import Metrics
from transformers_detr.serving.model_registry import RegisteredModel
from transformers_detr.serving.runner import Endpoint, ModelRunner
from transformers_detr.serving.schemas import RequestParameters

_MAX_THREADS = 4


class ServiceState:
    """Models, threads and metrics of one application.

    Args:
        loaders: Function that loads each model, by name; the first model serves `POST /`.
        limits: Limits of every request.
        allow_urls: Fetch images by URL.
        preload: Load all models at startup instead of the first one only.

    Attributes:
        stopping: True during shutdown, when no new connections are accepted.
    """

    def __init__(
        self, loaders: Mapping[str, Callable[[], ModelRunner]], limits: Limits, allow_urls: bool, preload: bool
    ):
        self.stopping = False
        self.metrics = Metrics()
        self.models: dict[str, RegisteredModel] = {}
        self._executor = ModelExecutor()
        for name, load in loaders.items():
            observe = self.metrics.batches.labels(name).observe
            self.models[name] = RegisteredModel(name, load, limits, self._executor, observe)
        self.metrics.register_models(self.models.values())
        self._threads = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), thread_name_prefix="images")
        self._handler = RequestHandler(limits, self.metrics, allow_urls, self._threads)
        self._preload = preload

    @asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """Load models in the background at startup, release them at shutdown."""
        for model in list(self.models.values())[: None if self._preload else 1]:
            model.start_loading()
        yield
        await asyncio.gather(*(model.close() for model in self.models.values()), return_exceptions=True)
        self._executor.thread.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def handle(
        self, request: Request, name: str | None, endpoint: Endpoint, parameters: RequestParameters
    ) -> Response:
        """Handle an inference request by the named model, or the first one if `name` is None."""
        model = next(iter(self.models.values())) if name is None else self.models.get(name)
        if model is None:
            raise ServiceError(HTTPStatus.NOT_FOUND, f"model not found; available: {', '.join(self.models)}")
        return await self._handler.handle(request, model, endpoint, parameters)

    def readiness(self, with_reasons: bool) -> tuple[bool, dict[str, Any]]:
        """Return whether the service accepts traffic, and the state of each model.

        It does not while the first model is loading, when every model has failed, or during shutdown.
        """
        states = [model.state for model in self.models.values()]
        if set(states) == {"failed"}:  # no traffic arrives any more that would trigger a retry
            next(iter(self.models.values())).start_loading()
        ready = not self.stopping and states[0] in ("ready", "failed") and set(states) != {"failed"}
        entries = [
            {"name": model.name, "state": model.state}
            | ({"reason": model.reason} if model.reason is not None and with_reasons else {})
            for model in self.models.values()
        ]
        status = "stopping" if self.stopping else "ready" if ready else "not ready"
        return ready, {"status": status, "models": entries}

    def list_models(self) -> list[dict[str, Any]]:
        """Describe each model; a model that is not loaded has a name and a state only."""
        entries = []
        for registered in self.models.values():
            runner = registered.runner
            entries.append(
                {
                    "name": registered.name,
                    "state": registered.state,
                    "task": runner and runner.task,
                    "default_threshold": runner and runner.default_threshold,
                    "attention": runner and runner.has_attention,
                }
            )
        return entries
