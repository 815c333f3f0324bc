"""How large an image becomes: the `size` setting of the processor, read and applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SIZE_FORMS = (
    ("shortest_edge", "longest_edge"),
    ("shortest_edge",),
    ("height", "width"),
    ("max_height", "max_width"),
)
LONGEST_EDGE = 1333


class SizeDict(dict[str, int]):
    """A size that reads as `size["height"]` and, as in transformers since 5.0, as `size.height`."""

    def __getattr__(self, key: str) -> int | None:
        if key.startswith("__") or not any(key in form for form in SIZE_FORMS):
            raise AttributeError(key)
        return self.get(key)


def read_size(
    size: int | Iterable[Any] | Mapping[str, int], max_size: int | None = None, name: str = "size"
) -> SizeDict:
    """Read a size in any of the forms that configuration files and callers use.

    Args:
        size: the shortest edge, a pair (height, width), or a mapping with the keys of one of `SIZE_FORMS`.
        max_size: the longest edge, where the size has a shortest one; 1333 if neither says it and the size is a
            bare number.
        name: name of the argument, for errors.

    Raises:
        ValueError: other keys, or a value that is not a positive whole number.
    """
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": LONGEST_EDGE}
    elif hasattr(size, "shortest_edge"):
        size = dict(vars(size) or size)  # the SizeDict of transformers is a dataclass, ours a mapping
    elif not isinstance(size, Mapping):
        size = dict(zip(("height", "width", "third number"), size, strict=False))
    given = SizeDict({key: value for key, value in size.items() if value is not None})
    if max_size is not None and "shortest_edge" in given:
        given["longest_edge"] = max_size
    if not any(set(given) == set(form) for form in SIZE_FORMS):
        forms = ", or ".join(" and ".join(form) for form in SIZE_FORMS)
        raise ValueError(f"{name} must be a number, (height, width), or give {forms}; got {size}")
    for key, value in given.items():
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"{name}: {key} must be a positive whole number, got {value!r}")
    return given


def resized_size(height: int, width: int, size: Mapping[str, int], name: str = "image") -> tuple[int, int]:
    """The size an image is resized to.

    With `shortest_edge`, the shorter side becomes that long, or shorter where the longer side would otherwise
    exceed `longest_edge`. Rounding is the original's: the shorter side to the nearest, the longer one down;
    the longer one of very elongated images then exceeds `longest_edge`. (Stock rounds the other way round,
    which differs by a pixel for a quarter of all image sizes.)

    Args:
        height: pixels.
        width: pixels.
        size: as `read_size` returns it.
        name: what the error calls the image.

    Returns:
        Height and width in pixels.

    Raises:
        ValueError: a side would have no pixels.
    """
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        new_height, new_width = int(height * scale), int(width * scale)
    else:
        new_height, new_width = _with_shortest_edge(height, width, size)
    if new_height < 1 or new_width < 1:
        raise ValueError(
            f"{name}: is too elongated ({height}×{width}, height × width): "
            f"resized to {dict(size)}, a side would have no pixels"
        )
    return new_height, new_width


def _with_shortest_edge(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    shorter, longer = min(height, width), max(height, width)
    edge, longest = size["shortest_edge"], size.get("longest_edge")
    if longest is not None and longer / shorter * edge > longest:
        edge = round(longest * shorter / longer)
    if edge == shorter:
        return height, width
    if width < height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)
