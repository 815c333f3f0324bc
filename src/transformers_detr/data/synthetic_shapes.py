"""Shapes of the synthetic scenes: outlines of the eight classes, and their rasterization with smooth edges."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]  # (K, 2) x, y; the unit circle holds every outline

SUPERSAMPLING = 4
"""Subpixels per side of a pixel when an outline is drawn."""


def _arc(start: float, stop: float, count: int, radius: float = 1.0) -> Points:
    """Points on a circle around the origin, from one angle to another (radians)."""
    angles = np.linspace(start, stop, count)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _corners(count: int) -> Points:
    """Corners of a regular polygon, the first one at the top."""
    return _arc(-math.pi / 2, 1.5 * math.pi, count + 1)[:-1]


def _star() -> Points:
    points = _corners(10)
    points[1::2] *= 0.45
    return points


def _cross(half_arm: float = 0.3) -> Points:
    reach = math.sqrt(1 - half_arm**2)
    quarter = np.array([[half_arm, half_arm], [half_arm, reach], [-half_arm, reach]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 18.2


def _moon() -> Points:
    """A crescent: most of a circle, closed by the arc of an equal circle shifted to the right."""
    tip = math.acos(0.3)
    outside = _arc(tip, 2 * math.pi - tip, 32)
    inside = _arc(math.pi + tip, math.pi - tip, 24) + np.array([0.6, 0.0])
    return np.concatenate([outside, inside])


OUTLINES: dict[str, tuple[Points, ...]] = {
    "circle": (_corners(40),),
    "square": (_corners(4),),
    "triangle": (_corners(3),),
    "star": (_star(),),
    "cross": (_cross(),),
    "ring": (_corners(40), 0.55 * _corners(32)),
    "heart": (_heart(),),
    "moon": (_moon(),),
}
"""Class name → outline in the unit circle; a second polygon is a hole."""

CLASS_NAMES: tuple[str, ...] = tuple(OUTLINES)
"""Class names; the index of a name is its class id."""


def place(outline: tuple[Points, ...], radius: float, stretch: float, angle: float) -> list[Points]:
    """Scale an outline to a radius, stretch it along its x axis, then rotate it.

    Args:
        outline: Polygons in the unit circle, each `(K, 2)`.
        radius: Radius in pixels.
        stretch: Width over height before rotation; the area is kept.
        angle: Rotation in radians.

    Returns:
        Polygons in pixels around the origin, each `(K, 2)`.
    """
    grow = radius * np.array([math.sqrt(stretch), 1 / math.sqrt(stretch)])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return [(polygon * grow) @ turn for polygon in outline]


def rasterize(shapes: list[list[Points]]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Draw polygons into the smallest patch of whole pixels that holds them.

    Args:
        shapes: Shapes in pixels, one after the other; each is an outline and perhaps its hole.

    Returns:
        coverage: `(h, w)` in [0, 1], the part of each pixel that is inside.
        corner: `(2,)` x, y of the patch's upper left corner in the coordinates of `shapes`, whole numbers.
    """
    points = np.concatenate([polygon for shape in shapes for polygon in shape])
    corner = np.floor(points.min(axis=0))
    width, height = (np.ceil(points.max(axis=0)) - corner).astype(int)
    patch = Image.new("L", (int(width) * SUPERSAMPLING, int(height) * SUPERSAMPLING))
    draw = ImageDraw.Draw(patch)
    for shape in shapes:
        for polygon, fill in zip(shape, (255, 0), strict=False):
            # Pillow's polygon covers the pixels whose centers lie at whole numbers
            draw.polygon(((polygon - corner) * SUPERSAMPLING - 0.5).ravel().tolist(), fill=fill)
    return np.asarray(patch.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255), corner
