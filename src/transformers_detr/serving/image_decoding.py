"""Image decoding for untrusted input."""

from __future__ import annotations

import functools
from http import HTTPStatus

from PIL import Image

from transformers_detr.model.image_io_detr import TooManyPixels, UnknownFormat, load_image
from transformers_detr.serving.errors import ServiceError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def decode_image(content: bytes, max_pixels: int) -> Image.Image:
    """Decode an image of one of the `FORMATS` as upright RGB; one with too many pixels is not decoded.

    Raises:
        ServiceError: The format is not supported, the image is too large, or damaged.
    """
    try:
        return load_image(content, name="the image", formats=_available_formats(), most_pixels=max_pixels)
    except UnknownFormat:
        raise ServiceError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"not an image of a supported format: {', '.join(FORMATS)}"
        ) from None
    except TooManyPixels:
        raise ServiceError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the image has more than {max_pixels} pixels"
        ) from None
    except (ValueError, OSError):  # their messages may quote the file
        raise ServiceError(HTTPStatus.BAD_REQUEST, "the image is damaged and cannot be decoded") from None


@functools.cache
def _available_formats() -> tuple[str, ...]:
    """Return the formats that this build of Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
