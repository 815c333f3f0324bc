"""Image decoding for untrusted input."""

from __future__ import annotations

import functools
from http import HTTPStatus

from PIL import Image

from transformers_detr.model.image_io_detr import ChannelsError, Pixels, TooManyPixels, UnknownFormat, load_pixels
from transformers_detr.serving.errors import ServiceError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "NPY")


def decode_image(content: bytes, max_pixels: int, num_channels: int) -> Pixels:
    """Decode an image of one of the `FORMATS` upright, for a model; one with too many pixels is not decoded.

    Raises:
        ServiceError: The format is not supported, the image is too large, damaged, or has other channels.
    """
    try:
        return load_pixels(content, num_channels, "the image", formats=_available_formats(), most_pixels=max_pixels)
    except UnknownFormat:
        raise ServiceError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"not an image of a supported format: {', '.join(FORMATS)}"
        ) from None
    except TooManyPixels:
        raise ServiceError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the image has more than {max_pixels} pixels"
        ) from None
    except ChannelsError as error:
        raise ServiceError(HTTPStatus.BAD_REQUEST, str(error)) from None
    except (ValueError, OSError):  # their messages may quote the file
        raise ServiceError(HTTPStatus.BAD_REQUEST, "the image is damaged and cannot be decoded") from None


@functools.cache
def _available_formats() -> tuple[str, ...]:
    """Return the formats that this build of Pillow can read, and NumPy's."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN or name == "NPY")
