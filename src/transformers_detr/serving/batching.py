"""Dynamic batching: requests that wait at the same time share a batch if they are compatible."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from transformers_detr.serving.limits import Limits
from transformers_detr.serving.runner import ModelRunner, PreparedRequest

_SMOOTHING = 0.2


@dataclass(frozen=True)
class BatchResult:
    """Output for one request of a batch.

    Attributes:
        output: Output of `ModelRunner.run`.
        queued_seconds: Time from submission to the start of the batch.
        model_seconds: Run time of the batch.
        batch_size: Number of images in the batch.
    """

    output: Any
    queued_seconds: float
    model_seconds: float
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Pending:
    request: PreparedRequest
    result: asyncio.Future[BatchResult]
    submitted_at: float


class ModelExecutor:
    """Thread that runs the batches of all models, one at a time, first come, first served."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")


class Batcher:
    """Queue of one model that runs its requests in batches.

    The oldest request decides which others fit into the next batch. A batch that is not full waits for requests that
    are being prepared, but at most `limits.batch_wait_seconds` after its oldest request was submitted. Requests whose
    client has disconnected are dropped.

    Args:
        runner: Selects and runs batches.
        limits: Batch size and waiting time.
        executor: Runs all models of the service.
        observe: Called with the size of each batch.
    """

    def __init__(self, runner: ModelRunner, limits: Limits, executor: ModelExecutor, observe: Callable[[int], None]):
        self.seconds_per_image = 0.0
        self._runner = runner
        self._limits = limits
        self._executor = executor
        self._observe = observe
        self._expected = 0
        self._queue: list[_Pending] = []
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._loop())

    async def submit(self, request: PreparedRequest) -> BatchResult:
        """Queue a request and wait for its result. Cancelling the wait removes the request from the queue.

        Raises:
            Exception: Any exception of the model on this request alone.
        """
        future: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(request, future, time.perf_counter()))
        self._changed.set()
        return await future

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce a request that is being prepared, so that a batch waits for it."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._changed.set()

    async def close(self) -> None:
        """Stop running batches."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _loop(self) -> None:
        while True:
            self._changed.clear()
            seconds = self._seconds_to_next_batch()
            if seconds is not None and seconds <= 0:
                async with self._executor.lock:
                    await self._run(self._next_batch())
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    def _seconds_to_next_batch(self) -> float | None:
        """Return how long the next batch may still wait; None if the queue is empty."""
        batch = self._next_batch()
        if not batch:
            return None
        if len(batch) == self._limits.batch_size or not self._expected:
            return 0
        return batch[0].submitted_at + self._limits.batch_wait_seconds - time.perf_counter()

    def _next_batch(self) -> list[_Pending]:
        self._queue = [item for item in self._queue if not item.result.done()]
        if not self._queue:
            return []
        selected = self._runner.select_batch([item.request for item in self._queue], self._limits.batch_size)
        return [self._queue[index] for index in selected]

    async def _run(self, batch: list[_Pending]) -> None:
        if not batch:
            return
        self._queue = [item for item in self._queue if item not in batch]
        self._observe(len(batch))
        start = time.perf_counter()
        requests = [item.request for item in batch]
        outputs = await asyncio.get_running_loop().run_in_executor(self._executor.thread, self._outputs, requests)
        seconds = time.perf_counter() - start
        each = seconds / len(batch)
        self.seconds_per_image += (each - self.seconds_per_image) * (_SMOOTHING if self.seconds_per_image else 1)
        for item, output in zip(batch, outputs, strict=True):
            if item.result.done():
                continue
            if isinstance(output, Exception):
                item.result.set_exception(output)
            else:
                item.result.set_result(BatchResult(output, start - item.submitted_at, seconds, len(batch)))

    def _outputs(self, requests: Sequence[PreparedRequest]) -> list[Any]:
        """Return outputs, or exceptions in their place. If a batch fails, each of its requests runs alone."""
        try:
            return self._runner.run(requests)
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [output for request in requests for output in self._outputs([request])]
