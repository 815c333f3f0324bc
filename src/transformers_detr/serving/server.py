"""Uvicorn server with a timeout for request headers and a graceful shutdown."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from transformers_detr.serving.limits import Limits

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("uvicorn", "transformers_detr.serving")
    },
}
"""Logging to standard error; of a request, only status, size and timing."""

_MAX_HEADER_BYTES = 16 * 1024
_HEADER_SECONDS = 10.0
_WRITE_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 5
_DRAIN_SECONDS = 0.5


class TimeoutProtocol(H11Protocol):
    """Connection that is closed if request headers arrive too late or the client does not read the response."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.access_log = (
            False  # it would contain addresses and queries; the setting of that name does not always disable it
        )
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first headers."""
        super().connection_made(transport)
        self._start("headers", _HEADER_SECONDS, self._on_header_timeout)

    def data_received(self, data: bytes) -> None:
        """Receive data; start the timer if a new request begins."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("headers")
        elif "headers" not in self._timers:
            self._start("headers", _HEADER_SECONDS, self._on_header_timeout)

    def pause_writing(self) -> None:
        """Start the timer for the client to read the response."""
        super().pause_writing()
        self._start("write", _WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that timer."""
        super().resume_writing()
        self._stop("write")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop("headers")
        self._stop("write")
        super().connection_lost(exc)

    def _on_header_timeout(self) -> None:
        self._stop("headers")
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _start(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        self._timers[name] = self.loop.call_later(seconds, callback)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class Server(uvicorn.Server):
    """Server with a graceful shutdown that also serves requests in transit on open connections.

    Uvicorn closes idle connections at once; a request in transit, or unread in the socket, would be lost.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no new connections, wait briefly for requests on open ones, serve all, and stop."""
        self.config.app.state.service.stopping = True  # type: ignore[union-attr]
        for server in self.servers:
            server.close()
        await asyncio.sleep(_DRAIN_SECONDS)
        await super().shutdown(sockets)


def make_server(app: FastAPI, host: str, port: int, limits: Limits, **options: Any) -> Server:
    """Create a server for an application; its `run` serves until SIGINT or SIGTERM.

    HTTP is parsed by h11, which is strict and limits the size of headers. A faster parser would make no difference
    compared with the run time of a model.

    Args:
        app: Result of `create_app`.
        host: Address to listen on.
        port: Port to listen on; 0 selects a free one.
        limits: Time for the shutdown.
        **options: Further arguments of `uvicorn.Config`.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=TimeoutProtocol,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(limits.shutdown_seconds),
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        **options,
    )
    return Server(config)
