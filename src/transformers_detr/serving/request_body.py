"""The body of a request: read within bounds, or thrown away."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request

from transformers_detr.serving.errors import ClientGone, Refusal
from transformers_detr.serving.limits import Limits

JSON = "application/json"
# What curl and urllib say of bytes when nobody tells them what they are is taken too: the picture's own head decides.
_BYTES = ("", "application/octet-stream", "application/x-www-form-urlencoded")

_DISCARDED_BYTES = 64 * 2**20
_DISCARDING_SECONDS = 2.0


def media_type(request: Request) -> str:
    """Return the type of the body: `JSON`, or something else if it is the picture itself.

    Raises:
        Refusal: It is neither.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bodies must not be compressed (Content-Encoding)")
    if kind != JSON and kind not in _BYTES and not kind.startswith("image/"):
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"send the bytes of a picture (image/jpeg and the like, application/octet-stream) or {JSON}",
        )
    return kind


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body, and stop at once where it becomes too long.

    Raises:
        Refusal: It is too long, empty, or took too long to arrive.
        ClientGone: The client closed the connection.
    """
    most = limits.json_bytes if media_type(request) == JSON else limits.picture_bytes
    too_long = Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {most} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_long
    parts, length = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                length += len(part)
                if length > most:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise Refusal(
            HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {limits.body_seconds:g} seconds"
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    request.state.body_is_read = True
    if not length:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is empty; send a picture")
    return b"".join(parts)


async def discard_body(request: Request) -> bool:
    """Take in what is left of the body, so that a client that is still sending it gets to read the answer.

    Returns:
        Whether nothing is left; if something is, the connection has to be closed.
    """
    if getattr(request.state, "body_is_read", False):
        return True
    if "expect" in request.headers:  # asking for the body would invite it
        return False
    length = 0
    try:
        async with asyncio.timeout(_DISCARDING_SECONDS):
            while length < _DISCARDED_BYTES:
                message = await request.receive()
                length += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False
