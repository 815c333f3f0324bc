"""A process whose huggingface_hub is pointed at the local server by HF_ENDPOINT, as a user's would be."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_hub.server import HubServer


class HubProcess:
    """Runs functions of importable modules in a process of its own, which lives as long as this.

    Args:
        server: What HF_ENDPOINT names.
        home: What HF_HOME names: cache, stored token and modules.
    """

    def __init__(self, server: HubServer, home: Path):
        self.server = server
        self.home = home
        environment = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "http_proxy": server.url,  # images by their public address
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=context)
        with _environment(environment):
            self.call(os.getpid)  # starts the process, which inherits the environment

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Run a function there and return what it returns, or raise what it raises."""
        return self.pool.submit(function, *arguments, **keywords).result()

    def close(self) -> None:
        self.pool.shutdown()


@contextmanager
def running_hub(home: Path) -> Iterator[HubProcess]:
    """A server and its process, until the end of the block."""
    server = HubServer()
    process = HubProcess(server, home)
    try:
        yield process
    finally:
        process.close()
        server.close()


@contextmanager
def _environment(values: dict[str, str]) -> Any:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
