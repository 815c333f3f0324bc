"""Freed memory: back to the operating system, so that a process that sees images of many sizes stays flat."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

STEP = 256 * 2**20
"""Growth of the process, in bytes, behind which freed memory is returned: rarely enough to cost nothing."""


class FreedMemory:
    """Returns freed memory when the process has grown.

    Tensors of ever new sizes break the heap of glibc into pieces that are free, but too small for the next tensor:
    with 80 image sizes it grows by more than 1 GB that nobody uses. Obsolete when torch has an allocator of its own for
    CPUs. On systems without glibc nothing happens.
    """

    def __init__(self) -> None:
        self._level: int | None = None
        self._trim = _find_trim()

    def return_it(self) -> None:
        """Return freed memory if the process has grown by more than `STEP` since the last time."""
        if self._trim is None:
            return
        now = resident_bytes()
        if self._level is None:
            self._level = now
        elif now > self._level + STEP:
            self._trim(0)
            self._level = resident_bytes()


def resident_bytes() -> int:
    """Return the memory that this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _find_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux" or not Path("/proc/self/statm").exists():
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it


FREED_MEMORY = FreedMemory()
"""That of this process."""
