"""Meaning of the lines of YOLO label files, decided from all lines of a dataset together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers_detr.data.field_values import shown
from transformers_detr.data.findings import DatasetError

_PLAINLY_PIXELS = 2.0
"""A box of at least this width and height is in pixels: relative ones may exceed the image, but not twice over."""

_VISIBILITIES = {0.0, 1.0, 2.0}


class Shape(NamedTuple):
    """Box and outline of a line, in the line's own units.

    Attributes:
        box: Left, top, width, height.
        polygon: x and y of each corner in turn, or None for a box.
    """

    box: tuple[float, float, float, float]
    polygon: Sequence[float] | None = None

    @property
    def is_plainly_in_pixels(self) -> bool:
        """Whether the box cannot be meant relative to the image."""
        return min(self.box[2:]) >= _PLAINLY_PIXELS

    @property
    def is_plainly_relative(self) -> bool:
        """Whether the box lies in the unit square."""
        left, top, width, height = self.box
        return min(left, top) >= 0 and max(left + width, top + height) <= 1

    def scaled(self, height: float, width: float) -> Shape:
        """Return the shape with x times `width` and y times `height`."""
        left, top, w, h = self.box
        polygon = self.polygon and [value * (height if i % 2 else width) for i, value in enumerate(self.polygon)]
        return Shape((left * width, top * height, w * width, h * height), polygon)


@dataclass(frozen=True)
class LineRule:
    """What the numbers after the class mean.

    Attributes:
        extra: Number of numbers after the box, of keypoints or a confidence; None if longer lines are polygons.
        in_pixels: Whether the whole dataset is in pixels.
    """

    extra: int | None = None
    in_pixels: bool = False

    def problem(self, numbers: Sequence[float]) -> str | None:
        """Describe what is wrong with the number of numbers; None if it is right."""
        count = len(numbers)
        if count == 4:
            return None
        if self.extra is not None:
            wanted = f"4 numbers after the class, or {4 + self.extra} as other lines do"
            return None if count == 4 + self.extra else f"a line must hold {wanted}, got {count}"
        if count < 6 or count % 2:
            return f"a line must hold 4 numbers after the class, or an even number from 6 on, got {count}"
        return None

    def shape(self, numbers: Sequence[float]) -> Shape:
        """Return the shape of a line without a problem."""
        if len(numbers) > 4 and self.extra is None:
            xs, ys = numbers[0::2], numbers[1::2]
            return Shape((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), numbers)
        x, y, width, height = numbers[:4]
        return Shape((x - width / 2, y - height / 2, width, height))


def line_rule(lines: Sequence[Sequence[float]], kpt_shape: object, task: object, source: object) -> LineRule:
    """Decide what the lines of a dataset mean.

    Lines of more than four numbers hold keypoints if `kpt_shape` says so; or, if it is absent, if all of them hold the
    same number of x, y, visibility triples after the box. Otherwise they are polygons, as are the four corners of a
    rotated box. Where every line has five numbers, as predictions have, the fifth is a confidence. The dataset is in
    pixels if more boxes are plainly in pixels than plainly relative.

    Args:
        lines: Numbers after the class, of all lines.
        kpt_shape: Of data.yaml: number of keypoints and of numbers each, or None.
        task: Of data.yaml: "segment" and "obb" exclude keypoints; or None.
        source: data.yaml, for messages.

    Raises:
        DatasetError: If `kpt_shape` is not two numbers.
    """
    extra = _declared_keypoints(kpt_shape, source)
    if extra is None and task not in ("segment", "obb"):
        are_predictions = all(len(line) == 5 and 0 <= line[4] <= 1 for line in lines)
        extra = 1 if lines and are_predictions else _triples([line for line in lines if len(line) > 4])
    rule = LineRule(extra)
    shapes = [rule.shape(line) for line in lines if rule.problem(line) is None]
    pixels, relative = (
        sum(getattr(shape, name) for shape in shapes) for name in ("is_plainly_in_pixels", "is_plainly_relative")
    )
    return LineRule(extra, pixels > relative)


def _declared_keypoints(kpt_shape: object, source: object) -> int | None:
    if kpt_shape is None:
        return None
    match kpt_shape:
        case [int(count), 2 | 3 as size] if count > 0:
            return count * size
    raise DatasetError(f"{source}: 'kpt_shape' must be [number of keypoints, 2 or 3], got {shown(kpt_shape)}")


def _triples(lines: Sequence[Sequence[float]]) -> int | None:
    """Return the number of numbers after the box, if those are x, y, visibility in every line; else None."""
    counts = {len(line) - 4 for line in lines}
    count = counts.pop() if len(counts) == 1 else 0
    if count % 3 or not count:
        return None
    sized = all(min(line[2:4]) > 0 for line in lines)
    seen = {visibility for line in lines for visibility in line[6::3]}
    return count if sized and seen <= _VISIBILITIES and seen != {0.0} else None


def polygon_area(polygon: Sequence[float]) -> float:
    """Compute the area of a polygon of x, y, x, y, … by the shoelace formula."""
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    following: Iterable[tuple[float, float]] = [*points[1:], points[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2
