"""Timing of the stages of a request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class RequestTiming:
    """Stopwatch with named stages.

    Attributes:
        stages: Seconds by stage, in order of completion.
        batch_size: Number of images in the request's batch.
    """

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self.batch_size = 0
        self._start = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of a `with` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = time.perf_counter() - start

    def header(self) -> str:
        """Return the value of the `Server-Timing` header, in milliseconds."""
        parts = [f"{name};dur={seconds * 1000:.1f}" for name, seconds in self.stages.items()]
        return ", ".join([*parts, f"total;dur={self.total * 1000:.1f}", f'batch;desc="{self.batch_size}"'])

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in self.stages.items())
        return f"{self.total * 1000:.0f} ms ({stages}; batch of {self.batch_size})"
