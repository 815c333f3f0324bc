"""Working ahead: order, bounds and clean ends."""

import itertools
import threading
import time

import pytest

from transformers_detr.prefetch import prefetch_map


def test_results_come_in_order_whatever_their_time():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(prefetch_map(slow_first, range(20), depth=5, threads=4)) == [i * i for i in range(20)]


def test_only_depth_items_are_drawn_ahead():
    drawn = []

    def endless():
        for number in itertools.count():
            drawn.append(number)
            yield number

    results = prefetch_map(str, endless(), depth=3, threads=2)
    assert next(results) == "0"
    assert drawn == [0, 1, 2, 3]
    assert next(results) == "1"
    assert drawn == [0, 1, 2, 3, 4]
    results.close()


def test_calls_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=5)
    assert list(prefetch_map(lambda _: barrier.wait() >= 0, range(3), depth=3, threads=3)) == [True] * 3


def test_error_appears_at_its_turn_and_ends_the_threads():
    def fail_at_two(item):
        if item == 2:
            raise ValueError("two")
        return item

    before = threading.active_count()
    results = prefetch_map(fail_at_two, range(9), depth=4, threads=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert threading.active_count() == before
