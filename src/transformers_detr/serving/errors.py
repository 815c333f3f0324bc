"""Why a request is not answered: a status and a reason that its sender may see."""

from __future__ import annotations

from http import HTTPStatus


class Refusal(Exception):
    """A request is not answered.

    Args:
        status: HTTP status.
        reason: One sentence for the sender.
        retry_after: Seconds after which it is worth trying again.
    """

    def __init__(self, status: HTTPStatus, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"


class ClientGone(Exception):
    """The client closed the connection before it had its answer."""
