"""What the requests of a service share: its models, threads and counters."""

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

from transformers_detr.serving.batching import ModelTurn
from transformers_detr.serving.errors import Refusal
from transformers_detr.serving.handler import RequestPath
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.metrics import Metrics
from transformers_detr.serving.model_registry import HostedModel
from transformers_detr.serving.request_parameters import Parameters
from transformers_detr.serving.runner import Kind, ServedModel

_MOST_THREADS = 4


class Service:
    """The models of a service, and what its requests share.

    Args:
        loaders: What loads each model, by name; the first is that of `POST /`.
        limits: Bounds of every request.
        allow_urls: Whether pictures may be given by URL.
        preload: Whether all models are loaded at the start, and not only the first.

    Attributes:
        stopping: Set when no further connections are taken.
    """

    def __init__(
        self, loaders: Mapping[str, Callable[[], ServedModel]], limits: Limits, allow_urls: bool, preload: bool
    ):
        self.stopping = False
        self.metrics = Metrics()
        self.models: dict[str, HostedModel] = {}
        self._turn = ModelTurn()
        for name, load in loaders.items():
            observe = self.metrics.batches.labels(name).observe
            self.models[name] = HostedModel(name, load, limits, self._turn, observe)
        self.metrics.follow(self.models.values())
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="pictures")
        self._path = RequestPath(limits, self.metrics, allow_urls, self._threads)
        self._preload = preload

    @asynccontextmanager
    async def running(self, _: object) -> AsyncIterator[None]:
        """Load models in the background while requests are taken, and let go of them at the end."""
        for model in list(self.models.values())[: None if self._preload else 1]:
            model.begin()
        yield
        await asyncio.gather(*(model.close() for model in self.models.values()), return_exceptions=True)
        self._turn.thread.shutdown(wait=False, cancel_futures=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request, name: str | None, kind: Kind, parameters: Parameters) -> Response:
        """Answer a request about a picture; without a name, by the first model."""
        model = next(iter(self.models.values())) if name is None else self.models.get(name)
        if model is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is no such model here; there is {', '.join(self.models)}")
        return await self._path.answer(request, model, kind, parameters)

    def readiness(self, with_reasons: bool) -> tuple[bool, dict[str, Any]]:
        """Whether requests should come, and the state of each model.

        They should not while the first model is being loaded, when every model has failed, or when the service stops.
        """
        states = [model.state for model in self.models.values()]
        if set(states) == {"failed"}:  # nobody is sent here any more to ask for them
            next(iter(self.models.values())).begin()
        ready = not self.stopping and states[0] in ("ready", "failed") and set(states) != {"failed"}
        entries = [
            {"name": model.name, "state": model.state}
            | ({"reason": model.reason} if model.reason is not None and with_reasons else {})
            for model in self.models.values()
        ]
        status = "stopping" if self.stopping else "ready" if ready else "not ready"
        return ready, {"status": status, "models": entries}

    def describe(self) -> list[dict[str, Any]]:
        """What a client can know of the models; of those that are not loaded, little."""
        entries = []
        for hosted in self.models.values():
            model = hosted.model
            entries.append(
                {
                    "name": hosted.name,
                    "state": hosted.state,
                    "task": model and model.task,
                    "default_threshold": model and model.default_threshold,
                    "attention": model and model.gives_attention,
                }
            )
        return entries
