"""Values of annotation files: one safe reading of numbers, ids and text, and errors that show the value."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

Value = TypeVar("Value")

Id = int | str
"""An id as a key: integers, whole floats and digits in text are the same number; other text is itself."""

LARGEST_ID = 2**53

LARGEST_SIDE_PX = 2**31 - 1
"""Largest height or width that any image format can hold."""

Box = tuple[float, float, float, float]

_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    return _short.repr(value)


def to_number(value: Any) -> float:
    """Read a number, or text that holds one.

    Raises:
        ValueError: If it is neither, or too large.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"must be a number, got {shown(value)}")


def to_id(value: Any) -> Id:
    """Read an id.

    Raises:
        ValueError: If it is neither a 64-bit integer nor text.
    """
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value.strip())
        if whole is None:
            return to_text(value)
        value = whole[1]
    try:
        number = int(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or abs(number) > LARGEST_ID or (isinstance(value, float) and number != value):
        raise ValueError(f"must be an integer or text, got {shown(value)}")
    return number


def to_text(value: Any) -> str:
    """Read text, or a number as text.

    Raises:
        ValueError: If it is neither, is blank, or holds a lone surrogate, which no file can hold.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        text = str(value)
        if text.strip() and text.encode("utf-8", "replace").decode() == text:
            return text
    raise ValueError(f"must be text, got {shown(value)}")


def field(entry: Any, key: str, read: Callable[[Any], Value]) -> Value:
    """Read a field of an entry by one of the functions above.

    Raises:
        ValueError: If the entry is no object, lacks the field, or the value cannot be read.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"must be an object, got {shown(entry)}")
    if key not in entry:
        raise ValueError(f"no {key!r}")
    try:
        return read(entry[key])
    except ValueError as error:
        raise ValueError(f"{key!r} {error}") from error


def to_box(value: Any) -> Box:
    """Read a box.

    Raises:
        ValueError: If the value is not a list of four numbers.
    """
    if isinstance(value, list | tuple) and len(value) == 4:
        with suppress(ValueError):
            x, y, a, b = map(to_number, value)
            return x, y, a, b
    raise ValueError(f"must be four numbers, got {shown(value)}")


def optional_number(entry: Mapping[str, Any], key: str, default: float, unreadable: Callable[[str], None]) -> float:
    """Read a number that has a default, which null and absence mean; tell `unreadable` of a value that is none."""
    if entry.get(key) is None:
        return default
    try:
        return field(entry, key, to_number)
    except ValueError as error:
        unreadable(f"{error}; {default:g} is used")
        return default


def stated_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the height and width that an entry states; None if it states no usable ones."""
    with suppress(ValueError, OverflowError):
        height, width = (int(to_number(entry.get(side))) for side in ("height", "width"))
        if min(height, width) > 0 and max(height, width) <= LARGEST_SIDE_PX:
            return height, width
    return None
