"""One sheet that shows a picture's objects and the attention behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from transformers_detr.inference.detections import Detections
from transformers_detr.visualization.annotate import draw_boxes
from transformers_detr.visualization.fonts import line_of

WIDTH = 1640
MARGIN = 40
GAP = 20
COLUMNS = 4
INK, SOFT = (28, 31, 35), (92, 101, 112)
LARGE, HEADING, SMALL = 34, 23, 18
"""Sizes of letters, in pixels."""

FLATTEST, TALLEST = 0.4, 1.4
"""Height over width of a panel; a picture that is longer is shown smaller."""

BOX_LINE = 4
DISC = 15
"""Radius of the marks of points, in pixels."""

# From no attention to the most: dark violet, red, orange, light yellow, ever lighter, so that gray prints tell too.
_HEAT = np.array([(13, 8, 60), (120, 28, 109), (207, 68, 70), (251, 155, 6), (252, 255, 164)], dtype=np.float64)
_VEIL = 0.35
_GRAY = 0.7


def explanation_sheet(
    found: Detections,
    queries: np.ndarray[Any, Any],
    decoder: np.ndarray[Any, Any],
    points_xy: Sequence[tuple[float, float]],
    encoder: np.ndarray[Any, Any],
    title: str,
    summary: str,
) -> Image.Image:
    """Draw the sheet.

    Args:
        found: N objects with their picture.
        queries: `(N,)`: the query that found each.
        decoder: `(N, h, w)`: where each looked.
        points_xy: P points, relative to the picture.
        encoder: `(P, h, w)`: what each point attends to.
        title: First line.
        summary: Second line.

    Returns:
        An RGB picture, 1640 pixels wide.
    """
    if found.image is None:
        raise ValueError("found must carry its picture")
    inner = WIDTH - 2 * MARGIN
    cell = (inner - (COLUMNS - 1) * GAP) // COLUMNS
    half = 2 * cell + GAP
    picture, aspect = found.image, found.image.height / found.image.width
    left = _stack([_line("Found", HEADING, half), _found(picture, found, points_xy, _fit(aspect, half))])
    panels = [_point_panel(picture, points_xy, n, encoder[n], _fit(aspect, cell)) for n in range(len(points_xy))]
    right = _stack([_line("Encoder: what the marked points attend to", HEADING, half), _grid(panels, 2, cell)])
    heading = "Decoder: where the query of each object looked"
    panels = [_query_panel(picture, found, n, queries[n], decoder[n], cell) for n in range(len(found))]
    parts = [
        _line(title, LARGE, inner),
        _line(summary, SMALL, inner, SOFT),
        _grid([left, right], 2, half),
        _line(heading, HEADING, inner),
        _grid(panels, COLUMNS, cell),
        _legend(inner),
    ]
    return ImageOps.expand(_stack(parts, GAP + 4), MARGIN, "white")


def heat_picture(picture: Image.Image, attention: np.ndarray[Any, Any], size: tuple[int, int]) -> Image.Image:
    """Lay attention over a picture, which loses its colors; the cell with the most attention is the brightest.

    Args:
        picture: RGB.
        attention: `(h, w)`, not negative.
        size: (width, height) of the result.
    """
    strongest = float(attention.max())
    cells = Image.fromarray((attention / strongest if strongest > 0 else attention).astype(np.float32))
    heat = np.asarray(cells.resize(size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]  # (height, width, 1)
    gray = np.asarray(_resized(picture, size).convert("L").convert("RGB"), dtype=np.float64) * _GRAY
    veil = _VEIL + (0.85 - _VEIL) * heat
    return Image.fromarray(((1 - veil) * gray + veil * _colors(heat[..., 0])).astype(np.uint8))


def _colors(heat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Colors `(…, 3)` of values between 0 and 1."""
    steps = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(heat, steps, channel) for channel in _HEAT.T], axis=-1)


def _found(
    picture: Image.Image, found: Detections, points_xy: Sequence[tuple[float, float]], size: tuple[int, int]
) -> Image.Image:
    factors = np.tile(np.divide(size, picture.size), 2)
    captions = [f"{name} {score:.2f}" for name, score in zip(found.names, found.scores, strict=True)]
    drawn = draw_boxes(
        _resized(picture, size),
        found.boxes_xyxy_px * factors,
        captions,
        found.labels.tolist(),
        keep_free=[_disc(point, size) for point in points_xy],
    )
    for number, point in enumerate(points_xy):
        _mark(drawn, point, str(number + 1))
    return drawn


def _point_panel(
    picture: Image.Image,
    points_xy: Sequence[tuple[float, float]],
    number: int,
    attention: np.ndarray[Any, Any],
    size: tuple[int, int],
) -> Image.Image:
    panel = heat_picture(picture, attention, size)
    _mark(panel, points_xy[number], str(number + 1))
    return panel


def _query_panel(
    picture: Image.Image,
    found: Detections,
    index: int,
    query: int,
    attention: np.ndarray[Any, Any],
    width: int,
) -> Image.Image:
    size = _fit(picture.height / picture.width, width)
    factors = np.tile(np.divide(size, picture.size), 2)
    panel = heat_picture(picture, attention, size)
    panel = draw_boxes(panel, found.boxes_xyxy_px[[index]] * factors, [""], [int(found.labels[index])], BOX_LINE)
    caption = f"{found.names[index]} {found.scores[index]:.2f} · query {query}"
    return _stack([panel, _line(caption, SMALL, width)], gap=6)


def _mark(picture: Image.Image, point_xy: tuple[float, float], text: str) -> None:
    """Put a numbered disc on a point."""
    left, top, right, bottom = disc = _disc(point_xy, picture.size)
    draw = ImageDraw.Draw(picture)
    draw.ellipse(disc, fill="white", outline="black", width=2)
    line = line_of(text, SMALL)
    x, y = (left + right - line.right + line.left) / 2, (top + bottom - line.bottom + line.top) / 2
    line.write(draw, x, y, INK)


def _disc(point_xy: tuple[float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the disc on a point, wholly inside a picture of `size` (width, height)."""
    x, y = (
        min(max(round(share * side), DISC + 1), side - DISC - 2) for share, side in zip(point_xy, size, strict=True)
    )
    return x - DISC, y - DISC, x + DISC, y + DISC


def _legend(width: int) -> Image.Image:
    """The colors, and what they mean."""
    line = line_of("no attention", SMALL)
    most = line_of("most; each map has a scale of its own, and is the mean over the heads", SMALL)
    height = math.ceil(line.bottom - line.top) + 4
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    line.write(draw, 0, 2, SOFT)
    begin = math.ceil(line.right - line.left) + 12
    ramp = _colors(np.tile(np.linspace(0, 1, 240), (height, 1))).astype(np.uint8)
    strip.paste(Image.fromarray(ramp), (begin, 0))
    most.write(draw, begin + 240 + 12, 2, SOFT)
    return strip


def _line(text: str, size: int, width: int, ink: tuple[int, int, int] = INK) -> Image.Image:
    """A line of text as a picture as wide as it needs."""
    line = line_of(text, size, width)
    picture = Image.new("RGB", (width, max(1, math.ceil(line.bottom - line.top))), "white")
    line.write(ImageDraw.Draw(picture), 0, 0, ink)
    return picture


def _stack(pictures: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Pictures one below the other."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    stack = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    top = 0
    for picture in pictures:
        stack.paste(picture, (0, top))
        top += picture.height + gap
    return stack


def _grid(pictures: Sequence[Image.Image], columns: int, width: int) -> Image.Image:
    """Pictures in rows, in cells of a width."""
    rows = []
    for first in range(0, len(pictures), columns):
        row = pictures[first : first + columns]
        strip = Image.new("RGB", (columns * (width + GAP) - GAP, max(picture.height for picture in row)), "white")
        for column, picture in enumerate(row):
            strip.paste(picture, (column * (width + GAP), 0))
        rows.append(strip)
    return _stack(rows)


def _fit(aspect: float, width: int) -> tuple[int, int]:
    """Width and height of a picture, by its height over width, in a panel of a width."""
    height = width * min(max(aspect, FLATTEST), TALLEST)
    if aspect > TALLEST:
        return max(1, round(height / aspect)), round(height)
    return width, max(1, round(width * aspect))


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.LANCZOS)
