"""Fetching images by URL, from public addresses only."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from transformers_detr.serving.errors import ServiceError

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 64 * 1024


class _PinnedConnection(http.client.HTTPConnection):
    """Connection to an address that was checked before, even if the name resolves to another one now."""

    def __init__(self, host: str, port: int, address: str, secure: bool, timeout: float):
        super().__init__(host, port, timeout=timeout)
        self._address = address
        self._secure = secure
        self._open: socket.socket | None = None  # `sock` is reset when the server announces that it will close

    def connect(self) -> None:
        self.sock = self._open = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            secured = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._open = secured
            secured.do_handshake()

    def abort(self) -> None:
        """Unblock a reading thread: a server that keeps sending single bytes never triggers the socket timeout."""
        if self._open is not None:
            with suppress(OSError):  # already closed
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)


def fetch(url: str, max_bytes: int, seconds: float) -> bytes:
    """Fetch a URL, following a few redirects. Each address is checked.

    Args:
        url: An `http` or `https` URL.
        max_bytes: Largest response.
        seconds: Time limit for everything.

    Raises:
        ServiceError: A name resolves to an address that is not public, or the response is too long, too late or not a
            success.
    """
    deadline = time.monotonic() + seconds
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            content, location = _get(url, max_bytes, deadline)
            if location is None:
                return content
            url = urljoin(url, location)
    except (OSError, ValueError, http.client.HTTPException):
        raise ServiceError(HTTPStatus.BAD_REQUEST, "the URL cannot be fetched") from None
    raise ServiceError(HTTPStatus.BAD_REQUEST, f"the URL redirects more than {_MAX_REDIRECTS} times")


def _get(url: str, max_bytes: int, deadline: float) -> tuple[bytes, str | None]:
    """Return the content, or the URL of a redirect."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceError(HTTPStatus.BAD_REQUEST, "only http and https URLs are supported")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = _public_address(parts.hostname, port)
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection = _PinnedConnection(parts.hostname, port, address, secure, left)
    timer = threading.Timer(left, connection.abort)
    timer.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "transformers-detr", "Accept": "image/*"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and (location := response.getheader("Location")):
            return b"", location
        if response.status != HTTPStatus.OK:
            raise ServiceError(HTTPStatus.BAD_REQUEST, f"the URL responded with status {response.status}")
        content = bytearray()
        while chunk := response.read1(_CHUNK):
            content += chunk
            if len(content) > max_bytes:
                raise ServiceError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the URL returned more than {max_bytes} bytes")
        if time.monotonic() >= deadline:  # an aborted response looks like a complete one
            raise TimeoutError
        return bytes(content), None
    finally:
        timer.cancel()
        connection.close()


def _public_address(host: str, port: int) -> str:
    """Resolve a name once; all of its addresses must be public."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(is_public(address) for address in found):
        raise ServiceError(HTTPStatus.BAD_REQUEST, "the URL resolves to an address that is not public")
    return found[0]


def is_public(address: str) -> bool:
    """Return whether an IP address is public, also if it is an IPv4 address embedded in IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _nat64(ip)
        if inner is not None:
            return is_public(str(inner))
    is_site_local = getattr(ip, "is_site_local", False)  # of IPv6; Python takes it for global
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not is_site_local


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address embedded in a NAT64 address."""
    prefix = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in prefix else None
