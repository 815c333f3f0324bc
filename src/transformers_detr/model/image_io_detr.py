"""Reading of images: any source to 8-bit pixels, or to an error that names the item and the fault.

Three rules define the result.

Orientation. Encoded images (paths, bytes, files, URLs) are turned upright by their EXIF tag. A PIL image or
an array is not turned, so that its size stays true for the caller.

Color. Every mode becomes RGB as Pillow's `convert("RGB")` does it, which drops an alpha channel and keeps
the colors below it, as the original and the pipelines of transformers do. What Pillow cannot convert is
handled here: 16-bit images are scaled to 8 bit (65535 → 255); CIE Lab goes through a color transform;
32-bit integers and floats, whose white is not defined, are scaled by the smallest of 1 (floats only), 255 and
65535 that holds them, else stretched from their lowest to their highest value.

Channels. A model of one channel sees gray (mode L), one of two gray and alpha (LA), one of three RGB, one of
four RGBA. Where the model has no channel for alpha, alpha is dropped; where it has one, the image must have
alpha (LA, PA, RGBA, or a transparent color): RGB, gray or CMYK is an error, since a fourth channel cannot be
made up. Arrays of the model's number of channels are taken unchanged, whatever the channels mean, and are the
only way for five or more; a file holds such an array as `.npy`.
"""

from __future__ import annotations

import io
import os
import threading
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

URL_SCHEMES = ("http://", "https://", "data:image/")
FETCH_TIMEOUT_SECONDS = 30.0
LFS_POINTER = b"version https://git-lfs.github.com/spec"
NPY_MAGIC = b"\x93NUMPY"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for a number of channels."""

_LUMA = np.array([19595, 38470, 7471], np.float32) / 65536  # gray of red, green and blue, as Pillow weights them

Pixels = Image.Image | np.ndarray[Any, Any]
"""An image for a model: a PIL image of one of `MODES`, or `(H, W, C)` uint8 of more channels."""


class _PillowQuiet:
    """Ignores Pillow's warnings while any thread is inside.

    `warnings.catch_warnings` alone restores the wrong filters when threads leave in another order than they
    came.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_PILLOW_QUIET = _PillowQuiet()


class UnknownFormat(ValueError):
    """Encoded bytes are of no format that is read."""


class ChannelsError(ValueError):
    """An image has other channels than wanted."""


class TooManyPixels(ValueError):
    """The header of an encoded image names more pixels than allowed; it was not decoded."""


def load_image(
    source: Any,
    name: str | None = None,
    timeout: float = FETCH_TIMEOUT_SECONDS,
    formats: tuple[str, ...] | None = None,
    most_pixels: int | None = None,
) -> Image.Image:
    """Read an image from any source as RGB, to look at or for a model of three channels.

    Args:
        source: a path, an `http(s)` or `data:image/` URL, encoded bytes, a binary file, a PIL image of any
            mode, or an array or tensor of integers or booleans, `(H, W)`, `(H, W, C)` or `(C, H, W)`. An array of
            more than four channels gives its first three. Paths, bytes and files may hold an array as `.npy`.
        name: name of the image in errors; by default its path or URL, else "image".
        timeout: seconds to wait for a web server's answer.
        formats: Pillow's names of the formats that may be read, and "NPY"; all, if not given.
        most_pixels: largest number of pixels of an encoded image; None takes Pillow's limit.

    Returns:
        A PIL image of mode RGB with at least one pixel; a PIL image that already is one is returned itself.

    Raises:
        UnknownFormat, TooManyPixels: both are a ValueError.
        ValueError: the image cannot be decoded, has no pixels, or its values or shape are invalid.
        OSError: there is no such file, it may not be read, or the URL cannot be fetched.
        TypeError: `source` is none of the above.
    """
    opened, name = _open(source, name, timeout, formats, most_pixels)
    if isinstance(opened, Image.Image):
        return _to_mode(opened, "RGB", name)
    planes = _eight_bit_planes(opened, max(3, _likely_channels(opened.shape)), name, most_pixels)
    return Image.fromarray(np.stack(planes[:3], axis=-1))


def load_pixels(
    source: Any,
    num_channels: int,
    name: str | None = None,
    timeout: float = FETCH_TIMEOUT_SECONDS,
    formats: tuple[str, ...] | None = None,
    most_pixels: int | None = None,
) -> Pixels:
    """Read an image from any source with the channels that a model takes; see the head of this file.

    Args:
        source: as for `load_image`.
        num_channels: Channels of the model.
        name: as for `load_image`.
        timeout: as for `load_image`.
        formats: as for `load_image`.
        most_pixels: as for `load_image`.

    Returns:
        A PIL image of the mode in `MODES`, or, for more than four channels, an array `(H, W, num_channels)` uint8.

    Raises:
        ChannelsError: the image has not the wanted channels; a ValueError.
        UnknownFormat, TooManyPixels, ValueError, OSError, TypeError: as `load_image`.
    """
    opened, name = _open(source, name, timeout, formats, most_pixels)
    if isinstance(opened, Image.Image):
        if num_channels not in MODES:
            raise ChannelsError(
                f"{name}: has {len(opened.getbands())} channels (mode {opened.mode}), expected {num_channels}: "
                "give an array, a tensor or a .npy file"
            )
        return _to_mode(opened, MODES[num_channels], name)
    planes = _eight_bit_planes(opened, num_channels, name, most_pixels)
    if num_channels == 1:
        return Image.fromarray(np.ascontiguousarray(planes[0]))
    values = np.stack(planes, axis=-1)
    return Image.fromarray(values) if num_channels in MODES else values


def pixels_size(pixels: Pixels) -> tuple[int, int]:
    """Return (height, width) of what `load_pixels` returns."""
    return (pixels.height, pixels.width) if isinstance(pixels, Image.Image) else (pixels.shape[0], pixels.shape[1])


def array_planes(
    array: np.ndarray[Any, Any] | torch.Tensor,
    num_channels: int = 3,
    input_data_format: str | None = None,
    name: str = "image",
) -> tuple[np.ndarray[Any, Any], ...]:
    """Split an array or tensor into one plane per channel.

    Args:
        array: `(H, W)`, `(H, W, C)` or `(C, H, W)` with `num_channels` channels, or, where that is 1 to 4, with 1
            (gray), 2 (gray, alpha), 3 or 4 (RGB, alpha) channels, which are converted as those of images are.
            Booleans become 0 and 255, uint16 is scaled to 8 bit, other integers must lie in 0…255.
        num_channels: Number of planes wanted.
        input_data_format: "channels_first" or "channels_last"; None finds out. Where both are possible, an
            array is taken as channels-last and a tensor as channels-first, the habit of their libraries.
        name: name of the image in errors.

    Returns:
        Planes `(H, W)`, all uint8 or all float32, floats unscaled; gray as RGB is the same plane three times.

    Raises:
        ChannelsError: another number of channels, or no alpha where it is wanted; a ValueError.
        ValueError: no pixels, another number of axes, NaN or infinity, integers outside 0…255.
    """
    values = _numpy(array)
    if values.ndim not in (2, 3):
        raise ValueError(f"{name}: expected 2 or 3 axes, got shape {values.shape}")
    if values.size == 0:
        raise ValueError(f"{name}: has no pixels, shape {values.shape}")
    if values.ndim == 2:
        if num_channels not in MODES:
            raise ChannelsError(f"{name}: expected {num_channels} channels, got an array of shape {values.shape}")
        values = values[None]  # (1, H, W)
    elif channels_last(values.shape, num_channels, input_data_format, isinstance(array, torch.Tensor), name):
        values = values.transpose(2, 0, 1)  # (C, H, W)
    values = _eight_bit_or_float(values, name)
    return tuple(values) if len(values) == num_channels else _converted(values, num_channels, name)


def channels_last(
    shape: Sequence[int],
    num_channels: int = 3,
    input_data_format: str | None = None,
    is_tensor: bool = False,
    name: str = "image",
) -> bool:
    """Return whether the last of three axes holds the channels; see `array_planes`, also for the errors."""
    counts = tuple(MODES) if num_channels in MODES else (num_channels,)
    first, last = shape[0] in counts, shape[2] in counts
    if input_data_format is not None:
        layout = str(getattr(input_data_format, "value", input_data_format))
        if layout not in ("channels_first", "channels_last"):
            raise ValueError(f"input_data_format must be channels_first or channels_last, got {layout!r}")
        first, last = first and layout == "channels_first", last and layout == "channels_last"
    if not first and not last:
        where = input_data_format or "the first or the last axis"
        readable = f"{num_channels} channels (or 1 to 4 channels, which are converted)"
        expected = readable if num_channels in MODES else f"{num_channels} channels"
        raise ChannelsError(f"{name}: expected {expected} on {where}, got an array of shape {tuple(shape)}")
    return last and not (first and is_tensor)


def _likely_channels(shape: Sequence[int]) -> int:
    """Return the number of channels of an array that may have more than four."""
    if len(shape) != 3 or shape[0] in MODES or shape[2] in MODES:
        return 3
    return min(shape[0], shape[2])


def _converted(values: np.ndarray[Any, Any], num_channels: int, name: str) -> tuple[np.ndarray[Any, Any], ...]:
    """Convert gray, gray + alpha, RGB or RGBA `(C, H, W)` to another of these."""
    color, alpha = (values[:1], values[1:]) if len(values) < 3 else (values[:3], values[3:])
    if num_channels % 2 == 0 and not len(alpha):
        raise ChannelsError(
            f"{name}: has {len(values)} channels, expected {num_channels} ({MODES[num_channels]}): it has no alpha"
        )
    if num_channels < 3 and len(color) == 3:
        gray = np.tensordot(_LUMA, color, 1)
        color = (gray + 0.5).astype(np.uint8)[None] if values.dtype == np.uint8 else gray[None]
    planes = (color[0],) * 3 if num_channels >= 3 and len(color) == 1 else tuple(color)
    return (*planes, *alpha) if num_channels % 2 == 0 else planes


def _eight_bit_planes(
    array: np.ndarray[Any, Any] | torch.Tensor, num_channels: int, name: str, most_pixels: int | None
) -> tuple[np.ndarray[Any, Any], ...]:
    planes = array_planes(array, num_channels, name=name)
    height, width = planes[0].shape
    if most_pixels is not None and height * width > most_pixels:
        raise TooManyPixels(f"{name}: has {width}×{height} pixels, more than {most_pixels}")
    if planes[0].dtype != np.uint8:
        raise ValueError(
            f"{name}: an array of floats does not say whether white is 1 or 255; "
            "give integers, or let the image processor take it (do_rescale says which)"
        )
    return planes


def _open(
    source: Any, name: str | None, timeout: float, formats: tuple[str, ...] | None, most_pixels: int | None
) -> tuple[Image.Image | np.ndarray[Any, Any] | torch.Tensor, str]:
    """Decode a source, upright if it was encoded, and name it."""
    if isinstance(source, (Image.Image, np.ndarray, torch.Tensor)):
        return source, name or "image"
    if isinstance(source, (bytes, bytearray, memoryview)):
        file, name = io.BytesIO(source), name or "image"
    elif isinstance(source, str) and source.startswith(URL_SCHEMES):
        shown = source if len(source) <= 200 else source[:60] + "…"
        file, name = io.BytesIO(_fetch(source, shown, timeout)), name or shown
    elif isinstance(source, (str, os.PathLike)):
        name = str(source) if name is None else f"{name} ({source})"
        with Path(source).open("rb") as file_on_disk:
            return _decode(file_on_disk, name, formats, most_pixels), name
    elif hasattr(source, "read"):
        file, name = source, name or str(getattr(source, "name", "image"))
    else:
        raise TypeError(
            f"{name or 'image'} must be a path, a URL, bytes, a PIL image, an array or a tensor, "
            f"got {type(source).__name__}"
        )
    return _decode(file, name, formats, most_pixels), name


def _numpy(array: np.ndarray[Any, Any] | torch.Tensor) -> np.ndarray[Any, Any]:
    if isinstance(array, np.ndarray):
        return array
    array = array.detach().cpu()
    values: np.ndarray[Any, Any] = (array.float() if array.is_floating_point() else array).numpy()
    return values


def _eight_bit_or_float(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Convert color values of any type to uint8; finite floats become float32, unscaled."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: holds NaN or infinity")
        return values.astype(np.float32, copy=False)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected numbers, got an array of {values.dtype}")
    if values.dtype.itemsize == 2 and values.dtype.kind == "u":
        return _from_sixteen_bit(values)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise ValueError(f"{name}: integers of type {values.dtype} must lie in 0…255, got {low}…{high}")
    return values.astype(np.uint8)


def _from_sixteen_bit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _fetch(url: str, shown: str, timeout: float) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "transformers-detr"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, ValueError, HTTPException) as error:
        raise ConnectionError(f"{shown}: cannot be fetched: {getattr(error, 'reason', None) or error}") from error


def _decode(
    file: IO[bytes], name: str, formats: tuple[str, ...] | None, most_pixels: int | None
) -> Image.Image | np.ndarray[Any, Any]:
    """Decode an image, upright, or an array."""
    head = file.read(len(LFS_POINTER))
    file.seek(0)
    if not head:
        raise ValueError(f"{name}: is empty")
    if head == LFS_POINTER:
        raise ValueError(f"{name}: is a Git LFS pointer, not the image itself; fetch it with `git lfs pull`")
    with _errors_named(name):
        if head.startswith(NPY_MAGIC) and (formats is None or "NPY" in formats):
            array: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
            return array
        image: Image.Image = Image.open(file, formats=formats and [one for one in formats if one != "NPY"])
        if most_pixels is not None and image.width * image.height > most_pixels:
            raise TooManyPixels(f"{name}: has {image.width}×{image.height} pixels, more than {most_pixels}")
        image.load()
        with suppress(Exception):  # a damaged EXIF block raises anything; the pixels are intact
            image = ImageOps.exif_transpose(image)
    return image


def _to_mode(image: Image.Image, mode: str, name: str) -> Image.Image:
    """Convert an image to one of `MODES`."""
    if 0 in image.size:
        raise ValueError(f"{name}: has no pixels, size {image.width}×{image.height}")
    with _errors_named(name):
        image.load()
        if image.mode == mode:
            return image
        if image.mode == "LAB":
            lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            image = _present(ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB"))
        elif image.mode in ("La", "RGBa"):  # alpha already multiplied in: undo that first
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        elif image.mode.startswith("I;16"):
            image = Image.fromarray(_from_sixteen_bit(np.asarray(image)))
        elif image.mode in ("I", "F"):
            image = Image.fromarray(_stretched(np.asarray(image)))
        if mode.endswith("A") and not image.has_transparency_data:
            raise ChannelsError(
                f"{name}: has {len(image.getbands())} channels (mode {image.mode}), "
                f"expected {len(mode)} ({mode}): it has no alpha"
            )
        return image.convert(mode)


def _present(image: Image.Image | None) -> Image.Image:
    if image is None:
        raise ValueError("the color transform returned nothing")
    return image


def _stretched(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Integers or floats without a defined white → uint8, by the rule in the head of this file."""
    if not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    elif high > 255:
        scaled = values.astype(np.float64) * (255 / 65535)
    elif high <= 1 and values.dtype.kind == "f":
        scaled = values.astype(np.float64) * 255
    else:
        scaled = values
    return np.rint(scaled).astype(np.uint8)


@contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Turn any error of a decoder into a ValueError that names the image; silence Pillow's warnings."""
    try:
        with _PILLOW_QUIET:
            yield
    except (ChannelsError, TooManyPixels):
        raise
    except UnidentifiedImageError as error:
        raise UnknownFormat(f"{name}: cannot be read as an image: unknown format") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{name}: {error}") from error
    except Exception as error:  # decoders raise anything on damaged files, SyntaxError and struct.error included
        raise ValueError(f"{name}: cannot be read as an image: {str(error) or type(error).__name__}") from error
