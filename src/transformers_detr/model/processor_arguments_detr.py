"""The settings of the image processor, as callers and configuration files of any age put them → as it keeps them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from PIL import Image

from .resize_detr import SizeDict, read_size

DEGENERATE_BOXES = ("drop", "refuse")
LEGACY_KEYWORDS = ("max_size", "pad_and_return_pixel_mask")
FILE_KEYWORDS = ("image_processor_type", "feature_extractor_type", "processor_class", "auto_map")
"""Keys of files that are no settings."""


def read_settings(
    given: Mapping[str, Any],
    known: Collection[str],
    size: SizeDict,
    default_to_square: bool,
    mean_and_std: tuple[Any, Any],
) -> dict[str, Any]:
    """Read settings in any of their forms.

    Args:
        given: by keyword; None is left out, and so are `FILE_KEYWORDS`.
        known: the keywords that exist.
        size: the size so far, in which a bare `max_size` replaces the longest edge.
        default_to_square: whether a bare number as size means a square, if `given` does not say it.
        mean_and_std: `image_mean` and `image_std` so far; what `given` does not name must fit what it names.

    Returns:
        The settings that were given, under the names and in the forms of today, and always `image_mean` and
        `image_std`.

    Raises:
        TypeError: an unknown keyword; the message names the nearest.
        ValueError: a value is out of range.
    """
    for key in given:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"DetrImageProcessor has no setting {key!r}{hint}")
    settings = {key: value for key, value in given.items() if value is not None and key not in FILE_KEYWORDS}
    if "pad_and_return_pixel_mask" in settings:
        settings["do_pad"] = settings.pop("pad_and_return_pixel_mask")
    max_size = settings.pop("max_size", None)
    if "size" in settings or max_size is not None:
        new_size = settings.get("size", size)
        square = settings.get("default_to_square", default_to_square) and isinstance(new_size, int)
        settings["size"] = read_size((new_size, new_size) if square else new_size, max_size)
    if "pad_size" in settings:
        pad_size = settings["pad_size"]
        settings["pad_size"] = read_size(
            (pad_size, pad_size) if isinstance(pad_size, int) else pad_size, name="pad_size"
        )
    mean, std = mean_and_std
    num_channels = max(np.size(mean), np.size(std))
    settings |= _per_channel(settings.get("image_mean", mean), settings.get("image_std", std), num_channels)
    if "resample" in settings:
        settings["resample"] = resampling(settings["resample"])
    if settings.get("degenerate_boxes", "drop") not in DEGENERATE_BOXES:
        raise ValueError(f"degenerate_boxes must be one of {DEGENERATE_BOXES}, got {settings['degenerate_boxes']!r}")
    return settings


def _per_channel(mean: Any, std: Any, num_channels: int) -> dict[str, tuple[float, ...]]:
    """Bring mean and deviation to one number per channel: as many as one of them has, else `num_channels`."""
    given = {"image_mean": mean, "image_std": std}
    channels = next((len(value) for value in given.values() if np.ndim(value)), num_channels)
    numbers = {
        name: tuple(float(number) for number in value) if np.ndim(value) else (float(value),) * channels
        for name, value in given.items()
    }
    if {len(values) for values in numbers.values()} != {max(channels, 1)} or 0 in numbers["image_std"]:
        raise ValueError(
            "image_mean and image_std must be one number per channel, or one for all, none of a standard deviation 0; "
            f"got image_mean {mean} and image_std {std}"
        )
    return numbers


def resampling(value: Any) -> Image.Resampling:
    """Pillow's filter, also by its number or by the name that torchvision gives it."""
    value = getattr(value, "value", value)
    try:
        return Image.Resampling[value.upper()] if isinstance(value, str) else Image.Resampling(value)
    except (KeyError, ValueError):
        names = [item.name.lower() for item in Image.Resampling]
        raise ValueError(f"resample must be one of {names} or its number, got {value!r}") from None
