"""Encoded bytes from a stranger → a picture."""

from __future__ import annotations

import functools
from http import HTTPStatus

from PIL import Image

from transformers_detr.model.image_io_detr import TooManyPixels, UnknownFormat, load_image
from transformers_detr.serving.errors import Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def open_picture(content: bytes, most_pixels: int) -> Image.Image:
    """Decode a picture of one of the `FORMATS`, if it is not too large, as upright RGB.

    Raises:
        Refusal: It is of another format, too large, or damaged.
    """
    try:
        return load_image(content, name="the picture", formats=_readable_formats(), most_pixels=most_pixels)
    except UnknownFormat:
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"this is not a picture of a known format: {', '.join(FORMATS)}"
        ) from None
    except TooManyPixels:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the picture has more than {most_pixels} pixels") from None
    except (ValueError, OSError):  # their messages may quote the file
        raise Refusal(HTTPStatus.BAD_REQUEST, "the picture is damaged and cannot be decoded") from None


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """Those of the formats that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
