"""What a client may ask: the parameters, and the JSON form of a request."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transformers_detr.serving.errors import Refusal

URL_PREFIXES = ("http://", "https://")

_DEEPEST = 8
_MOST_MARKS = 200
# A string (to the end of the text if it is never closed), or one of the marks that structure is made of. The
# quantifiers give nothing back, so that the time grows with the length of the text only.
_STRING_OR_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},:]', re.DOTALL)
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")


class Parameters(BaseModel):
    """What a client may choose."""

    model_config = ConfigDict(extra="forbid")

    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Scores must lie above it; the model's own by default.",
    )
    subtask: Literal["panoptic", "instance", "semantic"] | None = Field(
        default=None, description="Of segmentation models: what to divide the picture into."
    )
    details: bool = Field(default=False, description="Add `class_id` and `color` to each entry of the answer.")


class JsonQuestion(BaseModel):
    """A picture and parameters in one JSON document, as the Hub's clients send it."""

    model_config = ConfigDict(extra="forbid")

    inputs: str = Field(description="The encoded picture as base64; or its URL, where the service fetches URLs.")
    parameters: Parameters | None = None


def read_json(body: bytes) -> JsonQuestion:
    """Read a JSON body whose structure is as small as an honest one.

    Raises:
        Refusal: It is not JSON, nested too deeply, or holds anything else than it should.
    """
    _check_structure(body)
    try:
        return JsonQuestion.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, explain(error.errors(include_input=False))) from None


def explain(errors: Sequence[Any]) -> str:
    """Say what is wrong with each field, without the values that came."""
    return "; ".join(f"{_place(error['loc'])}{error['msg']}" for error in errors[:3])


def decode_base64(text: str) -> bytes:
    """Decode a picture given as base64, or as a `data:` URL of it.

    Raises:
        Refusal: It is not base64.
    """
    start = match.end() if (match := _DATA_URL.match(text)) else 0
    try:
        return base64.b64decode("".join(text[start:].split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "inputs is not a picture encoded as base64") from None


def _check_structure(body: bytes) -> None:
    depth = 0
    for count, match in enumerate(_STRING_OR_MARK.finditer(body)):
        mark = match[0] if match.end() - match.start() == 1 else b""
        depth += (mark in (b"[", b"{")) - (mark in (b"]", b"}"))
        if depth > _DEEPEST:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the JSON is nested more than {_DEEPEST} deep")
        if count > _MOST_MARKS:
            raise Refusal(HTTPStatus.BAD_REQUEST, "the JSON holds more than a picture and its parameters")


def _place(location: object) -> str:
    if not isinstance(location, tuple | list):
        return ""
    names = [str(part) for part in location if part not in ("query", "path", "body")]
    return f"{'.'.join(names)}: " if names else ""
