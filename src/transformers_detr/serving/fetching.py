"""Pictures by URL, for services that switch it on: from public addresses only."""

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

from transformers_detr.serving.errors import Refusal

_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 64 * 1024


class _Checked(http.client.HTTPConnection):
    """A connection to an address that was looked at beforehand, whatever the name resolves to by now."""

    def __init__(self, host: str, port: int, address: str, secure: bool, timeout: float):
        super().__init__(host, port, timeout=timeout)
        self._address = address
        self._secure = secure
        self._open: socket.socket | None = None  # `sock` is let go of when the server says that it will close

    def connect(self) -> None:
        self.sock = self._open = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            secured = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._open = secured
            secured.do_handshake()

    def cut(self) -> None:
        """End whatever another thread waits for: a server that sends a byte now and then never runs into a timeout."""
        if self._open is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)


def fetch(url: str, most_bytes: int, seconds: float) -> bytes:
    """Get what a URL names, over a few redirects, each of which is checked as the first.

    Args:
        url: An `http` or `https` URL.
        most_bytes: Reading stops there.
        seconds: Time for all of it.

    Raises:
        Refusal: A name resolves to an address that is not public, the answer is too long or no success, or there
            is none in time.
    """
    deadline = time.monotonic() + seconds
    try:
        for _ in range(_MOST_REDIRECTS + 1):
            content, location = _get(url, most_bytes, deadline)
            if location is None:
                return content
            url = urljoin(url, location)
    except (OSError, ValueError, http.client.HTTPException):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the URL cannot be fetched") from None
    raise Refusal(HTTPStatus.BAD_REQUEST, f"the URL redirects more than {_MOST_REDIRECTS} times")


def _get(url: str, most_bytes: int, deadline: float) -> tuple[bytes, str | None]:
    """The content, or where it is to be found."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refusal(HTTPStatus.BAD_REQUEST, "only http and https URLs are fetched")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    address = _public_address(parts.hostname, port)
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection = _Checked(parts.hostname, port, address, secure, left)
    alarm = threading.Timer(left, connection.cut)
    alarm.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"User-Agent": "transformers-detr", "Accept": "image/*"})
        answer = connection.getresponse()
        if answer.status in _REDIRECTS and (location := answer.getheader("Location")):
            return b"", location
        if answer.status != HTTPStatus.OK:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the URL answered with status {answer.status}")
        content = bytearray()
        while chunk := answer.read1(_CHUNK):
            content += chunk
            if len(content) > most_bytes:
                raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the URL holds more than {most_bytes} bytes")
        if time.monotonic() >= deadline:  # what was cut looks like an end
            raise TimeoutError
        return bytes(content), None
    finally:
        alarm.cancel()
        connection.close()


def _public_address(host: str, port: int) -> str:
    """Resolve a name once; every address that it has must be public."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(is_public(address) for address in found):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the URL leads to an address that is not public")
    return found[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, however it is wrapped."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _translated(ip)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _translated(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address behind one of NAT64's prefix."""
    prefix = ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in prefix else None
