"""Interleaved timing: rounds of one run each, so that a machine that slows down affects all candidates alike."""

from __future__ import annotations

import time
from collections.abc import Callable


def time_interleaved(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each run, by candidate; the first round is a warm-up and left out."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}
