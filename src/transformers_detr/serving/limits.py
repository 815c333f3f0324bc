"""What the service accepts: how large, how many, how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of every request and of the service as a whole.

    Attributes:
        picture_bytes: The most bytes of an encoded picture; as base64 in JSON it may be a third longer.
        pixels: The most pixels of a picture, which is not decoded if it has more.
        waiting: Requests under way for each model; one more is refused with 503.
        batch_size: Pictures that go through the model at once.
        batch_wait_seconds: How long a picture may wait for others that are on their way.
        body_seconds: Time for a request's body to arrive.
        answer_seconds: Time from there to the answer, waiting and loading of the model included.
        stop_seconds: Time to answer what was accepted, when the service is told to stop.
    """

    picture_bytes: int = 16_000_000
    pixels: int = 50_000_000
    waiting: int = 64
    batch_size: int = 8
    batch_wait_seconds: float = 0.01
    body_seconds: float = 30
    answer_seconds: float = 60
    stop_seconds: float = 30

    @property
    def json_bytes(self) -> int:
        """The most bytes of a JSON body: the picture as base64, and some parameters."""
        return self.picture_bytes * 4 // 3 + 4096
