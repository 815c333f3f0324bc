"""Limits of the service: sizes, counts and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of every request and of the service as a whole.

    Attributes:
        image_bytes: Largest encoded image; as base64 in JSON it may be a third longer.
        pixels: Largest number of pixels of an image; a larger image is not decoded.
        queue_size: Requests in flight per model; further ones get status 503.
        batch_size: Images in a batch.
        batch_wait_seconds: How long an image waits for others that are being prepared.
        body_seconds: Time for the request body to arrive.
        response_seconds: Time from there to the response, including queueing and loading the model.
        shutdown_seconds: Time to finish accepted requests at shutdown.
    """

    image_bytes: int = 16_000_000
    pixels: int = 50_000_000
    queue_size: int = 64
    batch_size: int = 8
    batch_wait_seconds: float = 0.01
    body_seconds: float = 30
    response_seconds: float = 60
    shutdown_seconds: float = 30

    @property
    def json_bytes(self) -> int:
        """Largest JSON body: the image as base64, and some parameters."""
        return self.image_bytes * 4 // 3 + 4096
