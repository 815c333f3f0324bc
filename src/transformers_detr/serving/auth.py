"""Bearer token authentication."""

from __future__ import annotations

import hmac
from http import HTTPStatus

from starlette.requests import Request

from transformers_detr.serving.errors import ServiceError


def has_valid_token(request: Request, token: str | None) -> bool:
    """Return whether a request carries the token, or none is needed. Tokens are compared in constant time."""
    if token is None:
        return True
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    matches = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    return matches and scheme.lower() == "bearer"


def require_token(request: Request) -> None:
    """Reject a request without the service's token; a dependency of routes.

    Raises:
        ServiceError: 401, the token is missing or wrong.
    """
    if not has_valid_token(request, request.app.state.token):
        raise ServiceError(
            HTTPStatus.UNAUTHORIZED, "missing or invalid bearer token (send Authorization: Bearer TOKEN)"
        )
