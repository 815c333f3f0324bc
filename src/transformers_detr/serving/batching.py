"""Dynamic batching: pictures that wait at the same time, and may share a batch, go through the model together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from transformers_detr.serving.limits import Limits
from transformers_detr.serving.runner import ServedModel, Work

_SMOOTHING = 0.2


@dataclass(frozen=True)
class Outcome:
    """The result of one work, and how it came about.

    Attributes:
        result: As `ServedModel.run` gives it.
        queued_seconds: From its arrival to the start of its batch.
        model_seconds: The time of its batch.
        batch_size: Pictures in the batch.
    """

    result: Any
    queued_seconds: float
    model_seconds: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Waiting:
    work: Work
    outcome: asyncio.Future[Outcome]
    since: float


class ModelTurn:
    """The thread in which all models run, one batch at a time, in the order in which they ask for it."""

    def __init__(self) -> None:
        self.order = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")


class Batcher:
    """Collects works of one model and runs them in batches.

    The oldest work decides what the next batch is made of. A batch that is not full waits for requests that are being
    prepared, but no longer than `limits.batch_wait_seconds` from the arrival of its oldest work. Works whose
    client has gone are left out.

    Args:
        model: Groups works and runs them.
        limits: Size of the batches, and how long to wait for more.
        turn: Shared by all models.
        observe: Called with the size of each batch.
    """

    def __init__(self, model: ServedModel, limits: Limits, turn: ModelTurn, observe: Callable[[int], None]):
        self.seconds_per_picture = 0.0
        self._model = model
        self._limits = limits
        self._turn = turn
        self._observe = observe
        self._expected = 0
        self._waiting: list[_Waiting] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._serve())

    async def submit(self, work: Work) -> Outcome:
        """Wait for the outcome of a work; whoever cancels the wait takes the work back.

        Raises:
            Exception: Whatever the model raised on this work alone.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(work, future, time.perf_counter()))
        self._news.set()
        return await future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce a work that is being prepared: it is worth waiting for a moment."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._news.set()

    async def close(self) -> None:
        """End the work; nobody waits any more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _serve(self) -> None:
        while True:
            self._news.clear()
            patience = self._patience()
            if patience is not None and patience <= 0:
                async with self._turn.order:
                    await self._run(self._next_batch())
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._news.wait()

    def _patience(self) -> float | None:
        """Seconds until the next batch has to start; None if nothing waits."""
        batch = self._next_batch()
        if not batch:
            return None
        if len(batch) == self._limits.batch_size or not self._expected:
            return 0
        return batch[0].since + self._limits.batch_wait_seconds - time.perf_counter()

    def _next_batch(self) -> list[_Waiting]:
        self._waiting = [item for item in self._waiting if not item.outcome.done()]
        if not self._waiting:
            return []
        chosen = self._model.group([item.work for item in self._waiting], self._limits.batch_size)
        return [self._waiting[index] for index in chosen]

    async def _run(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        self._waiting = [item for item in self._waiting if item not in batch]
        self._observe(len(batch))
        start = time.perf_counter()
        works = [item.work for item in batch]
        results = await asyncio.get_running_loop().run_in_executor(self._turn.thread, self._results, works)
        seconds = time.perf_counter() - start
        each = seconds / len(batch)
        self.seconds_per_picture += (each - self.seconds_per_picture) * (_SMOOTHING if self.seconds_per_picture else 1)
        for item, result in zip(batch, results, strict=True):
            if item.outcome.done():
                continue
            if isinstance(result, Exception):
                item.outcome.set_exception(result)
            else:
                item.outcome.set_result(Outcome(result, start - item.since, seconds, len(batch)))

    def _results(self, works: Sequence[Work]) -> list[Any]:
        """Results, or exceptions in their place; where a batch fails, each of its works is tried alone."""
        try:
            return self._model.run(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
            return [result for work in works for result in self._results([work])]
