"""Request body: reading within limits, discarding, JSON and base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.schemas import InferenceRequest

JSON = "application/json"
# The defaults of curl and urllib are accepted too: the image's own header decides on its format.
_BINARY_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")

_MAX_DISCARDED_BYTES = 64 * 2**20
_DISCARD_SECONDS = 2.0

_MAX_JSON_DEPTH = 8
_MAX_JSON_TOKENS = 200
# A string (up to the end of the text if unterminated) or a structural character. The quantifiers are possessive, so
# the time is linear in the length of the text.
_JSON_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},:]', re.DOTALL)
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")


def media_type(request: Request) -> str:
    """Return the media type of the body: `JSON`, or another one if the body is the image itself.

    Raises:
        ServiceError: 415, the type is neither, or the body is compressed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ServiceError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies (Content-Encoding) are not supported")
    if kind != JSON and kind not in _BINARY_TYPES and not kind.startswith("image/"):
        raise ServiceError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"send the bytes of an image (Content-Type image/* or application/octet-stream) or {JSON}",
        )
    return kind


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body, but stop as soon as it exceeds the limit.

    Raises:
        ServiceError: The body is too long, empty, or took too long to arrive.
        ClientDisconnect: The client closed the connection.
    """
    limit = limits.json_bytes if media_type(request) == JSON else limits.image_bytes
    too_long = ServiceError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request body is longer than {limit} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_long
    parts, length = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                length += len(part)
                if length > limit:
                    raise too_long
                parts.append(part)
    except TimeoutError:
        raise ServiceError(
            HTTPStatus.REQUEST_TIMEOUT, f"the request body did not arrive within {limits.body_seconds:g} seconds"
        ) from None
    request.state.body_is_read = True
    if not length:
        raise ServiceError(HTTPStatus.BAD_REQUEST, "the request body is empty; send an image")
    return b"".join(parts)


async def discard_body(request: Request) -> bool:
    """Read the rest of the body, so that a client that is still sending receives the response.

    Returns:
        Whether the whole body was read; if not, the connection must be closed.
    """
    if getattr(request.state, "body_is_read", False):
        return True
    if "expect" in request.headers:  # reading would send 100 Continue
        return False
    length = 0
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while length < _MAX_DISCARDED_BYTES:
                message = await request.receive()
                length += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


def parse_json(body: bytes) -> InferenceRequest:
    """Parse a JSON body, after a check that its structure is small.

    Raises:
        ServiceError: The body is not JSON, nested too deeply, or has unknown or invalid fields.
    """
    _check_structure(body)
    try:
        return InferenceRequest.model_validate_json(body)
    except ValidationError as error:
        message = validation_message(error.errors(include_input=False))
        raise ServiceError(HTTPStatus.UNPROCESSABLE_ENTITY, message) from None


def validation_message(errors: Sequence[Any]) -> str:
    """Return a message that names each invalid field, without the values that were sent."""
    return "; ".join(f"{_field(error['loc'])}{error['msg']}" for error in errors[:3])


def decode_base64(text: str) -> bytes:
    """Decode a base64 string or a base64 `data:` URL.

    Raises:
        ServiceError: 400, the text is not base64.
    """
    start = match.end() if (match := _DATA_URL.match(text)) else 0
    try:
        return base64.b64decode("".join(text[start:].split()), validate=True)
    except (binascii.Error, ValueError):
        raise ServiceError(HTTPStatus.BAD_REQUEST, "inputs is not a base64-encoded image") from None


def _check_structure(body: bytes) -> None:
    depth = 0
    for count, match in enumerate(_JSON_TOKEN.finditer(body)):
        token = match[0] if match.end() - match.start() == 1 else b""
        depth += (token in (b"[", b"{")) - (token in (b"]", b"}"))
        if depth > _MAX_JSON_DEPTH:
            raise ServiceError(HTTPStatus.BAD_REQUEST, f"the JSON is nested more than {_MAX_JSON_DEPTH} levels deep")
        if count > _MAX_JSON_TOKENS:
            raise ServiceError(HTTPStatus.BAD_REQUEST, "the JSON has more content than inputs and parameters")


def _field(location: object) -> str:
    if not isinstance(location, tuple | list):
        return ""
    names = [str(part) for part in location if part not in ("query", "path", "body")]
    return f"{'.'.join(names)}: " if names else ""
