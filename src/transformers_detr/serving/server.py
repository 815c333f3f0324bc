"""The server: Uvicorn, with a deadline for the heads of requests and a stop that answers what is on the wire."""

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
"""Lines on standard error; of a request, size and timing."""

_HEAD_BYTES = 16 * 1024
_HEAD_SECONDS = 10.0
_WRITE_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 5
_WIRE_SECONDS = 0.5


class PatientProtocol(H11Protocol):
    """One connection, closed when the head of a request does not arrive in time, or the answer is not taken in."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.access_log = False  # it would hold addresses and queries, wherever the setting of that name leaves it on
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first head."""
        super().connection_made(transport)
        self._start("head", _HEAD_SECONDS, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """Take in data; what is no part of a request that is being answered is on the clock."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("head")
        elif "head" not in self._timers:
            self._start("head", _HEAD_SECONDS, self._head_is_late)

    def pause_writing(self) -> None:
        """Start waiting for the client to take in what it was sent."""
        super().pause_writing()
        self._start("write", _WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken it in."""
        super().resume_writing()
        self._stop("write")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop("head")
        self._stop("write")
        super().connection_lost(exc)

    def _head_is_late(self) -> None:
        self._stop("head")
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _start(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        self._timers[name] = self.loop.call_later(seconds, then)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


class Server(uvicorn.Server):
    """A server whose stop lets connections that it has taken say what they want.

    Uvicorn closes a connection at once on which no request is being answered; a request that is on its way there, or
    lies unread in the socket, would be lost.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no further connections, wait a moment for requests on open ones, answer all, and end."""
        self.config.app.state.service.stopping = True  # type: ignore[union-attr]
        for server in self.servers:
            server.close()
        await asyncio.sleep(_WIRE_SECONDS)
        await super().shutdown(sockets)


def make_server(app: FastAPI, host: str, port: int, limits: Limits, **options: Any) -> Server:
    """Make a server for an application; its `run` serves until SIGINT or SIGTERM.

    h11 reads HTTP here, which is strict and bounds the head of a request; a faster parser would save nothing beside
    the time of a model.

    Args:
        app: As `create_app` makes it.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        limits: How long stopping may take.
        **options: Further settings of Uvicorn.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(limits.stop_seconds),
        h11_max_incomplete_event_size=_HEAD_BYTES,
        **options,
    )
    return Server(config)
