"""Freed memory goes back to the system when the process has grown, and only then."""

import ctypes
import sys

import pytest

from transformers_detr.inference import freed_memory
from transformers_detr.inference.freed_memory import STEP, FreedMemory, resident_bytes


def test_it_is_returned_after_each_step_of_growth(monkeypatch):
    sizes = iter([100, 100 + STEP, 101 + STEP, 150, 150 + STEP, 151 + STEP, 300])
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: next(sizes))
    freed = FreedMemory()
    trims = []
    freed._trim = trims.append
    freed.return_it()  # 100 is where it starts
    freed.return_it()  # 100 + STEP: has not grown by more than a step
    assert trims == []
    freed.return_it()  # 101 + STEP, 150 afterwards
    assert trims == [0]
    freed.return_it()
    assert trims == [0]
    freed.return_it()
    assert trims == [0, 0]


def test_nothing_happens_without_glibc(monkeypatch):
    freed = FreedMemory()
    freed._trim = None
    monkeypatch.setattr(freed_memory, "resident_bytes", lambda: pytest.fail("asked"))
    freed.return_it()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs the C library of GNU"
)
def test_a_heap_in_pieces_is_given_back():
    """Half of the blocks are freed: free memory that no larger block fits into."""
    freed = FreedMemory()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)  # what other tests have left would be used again
    freed.return_it()
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size, before = 65_536, resident_bytes()
    blocks = [libc.malloc(size) for _ in range(2 * STEP // size)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    held = resident_bytes()
    assert held > before + 1.9 * STEP
    freed.return_it()
    assert resident_bytes() < held - 0.9 * STEP
    for block in blocks[1::2]:
        libc.free(block)
