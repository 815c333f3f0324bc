"""Middleware that serves only those who mean this service: checks of `Host` and `Origin`."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES = ("localhost", "localhost.localdomain")
ANY = "*"


class TrustedHosts:
    """Refuses requests that a page of another site makes a browser send here.

    Such a page may give this machine's address to a name of its own, which `Host` then shows, or call the service from
    its own origin, which `Origin` shows. Programs send no `Origin`, and an address cannot be taken over as a name can.

    Args:
        app: The application.
        hosts: Names of the service beside those of the local machine; `*` for any.
        origins: Origins of pages that may call it, beside its own; `*` for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()):
        self._app = app
        self._hosts = {host.lower() for host in (*hosts, *LOCAL_NAMES)}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on to the application."""
        if scope["type"] == "http" and (message := self._refusal(Headers(scope=scope))):
            response = JSONResponse({"error": message}, HTTPStatus.FORBIDDEN, {"Connection": "close"})
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> str | None:
        """Return why a request is refused; None if it is not."""
        host = headers.get("host", "").lower()
        name = urlsplit(f"//{host}").hostname or ""
        if ANY not in self._hosts and name not in self._hosts and not _is_address(name):
            return f"this service is not known as {name!r} (--allow-host adds a name)"
        origin = headers.get("origin")
        if origin is None or ANY in self._origins or origin.lower() in self._origins:
            return None
        if urlsplit(origin.lower()).netloc == host:
            return None
        return f"pages of {origin!r} may not call this service (--allow-origin adds an origin)"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
