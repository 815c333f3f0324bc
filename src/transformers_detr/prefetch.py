"""Work ahead in threads, a bounded number of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int, threads: int
) -> Iterator[Result]:
    """Apply a function to items in threads while the caller works on earlier results.

    Items are drawn in the caller's thread. Closing the generator drops what has not begun.

    Args:
        function: Called in a thread, once per item.
        items: Any iterable, endless ones too.
        depth: Results that may be under way or waiting beyond the one that the caller holds.
        threads: Calls that run at the same time.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: Whatever `function` raised, when its item's turn comes.
    """
    pending: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(executor.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
