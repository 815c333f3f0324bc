"""Who may ask: the bearer token."""

from __future__ import annotations

import hmac
from http import HTTPStatus

from starlette.requests import Request

from transformers_detr.serving.errors import Refusal


def holds_token(request: Request, token: str | None) -> bool:
    """Whether a request carries the token, if there is one; the time says nothing about how much of it is right."""
    if token is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    return right and scheme.lower() == "bearer"


def require_token(request: Request) -> None:
    """Refuse a request without the token of its service.

    Raises:
        Refusal: It has none, or another.
    """
    if not holds_token(request, request.app.state.token):
        raise Refusal(HTTPStatus.UNAUTHORIZED, "this service wants its bearer token (Authorization: Bearer …)")
