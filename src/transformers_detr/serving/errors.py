"""HTTP errors of the service."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException


class ServiceError(HTTPException):
    """Error whose status and message the client receives.

    Args:
        status: HTTP status.
        message: One sentence for the client.
        retry_after: Value of the `Retry-After` header, in seconds.
    """

    def __init__(self, status: HTTPStatus, message: str, retry_after: int | None = None):
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers)
