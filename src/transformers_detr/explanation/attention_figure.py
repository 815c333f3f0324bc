"""Figure of the detections in an image and the attention of their queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from transformers_detr.inference.detections import Detections
from transformers_detr.visualization.annotate import draw_boxes
from transformers_detr.visualization.fonts import fit_line

WIDTH = 1640
MARGIN = 40
GAP = 20
COLUMNS = 4
INK, SOFT = (28, 31, 35), (92, 101, 112)
LARGE, HEADING, SMALL = 34, 23, 18
"""Font sizes in pixels."""

FLATTEST, TALLEST = 0.4, 1.4
"""Height over width of a panel; a longer image is scaled down."""

BOX_LINE = 4
DISC = 15
"""Radius of the marks of points, in pixels."""

# From no attention to the most: dark violet, red, orange, light yellow. Brightness increases, so gray prints work too.
_HEAT = np.array([(13, 8, 60), (120, 28, 109), (207, 68, 70), (251, 155, 6), (252, 255, 164)], dtype=np.float64)
_VEIL = 0.35
_GRAY = 0.7


def draw_explanation(
    detections: Detections,
    queries: np.ndarray[Any, Any],
    decoder_attention: np.ndarray[Any, Any],
    points_xy: Sequence[tuple[float, float]],
    encoder_attention: np.ndarray[Any, Any],
    title: str,
    summary: str,
) -> Image.Image:
    """Draw the figure.

    Args:
        detections: N objects with their image.
        queries: `(N,)`, the query of each object.
        decoder_attention: `(N, h, w)`, cross-attention of each query.
        points_xy: P points (x, y), relative to the image.
        encoder_attention: `(P, h, w)`, self-attention of each point.
        title: First line.
        summary: Second line.

    Returns:
        An RGB image, 1640 pixels wide.
    """
    if detections.image is None:
        raise ValueError("detections must have an image (keep_images=True)")
    inner = WIDTH - 2 * MARGIN
    cell = (inner - (COLUMNS - 1) * GAP) // COLUMNS
    half = 2 * cell + GAP
    image, aspect = detections.image, detections.image.height / detections.image.width
    left = _stack(
        [_line("Detections", HEADING, half), _draw_detections(image, detections, points_xy, _fit(aspect, half))]
    )
    panels = [
        _point_panel(image, points_xy, n, encoder_attention[n], _fit(aspect, cell)) for n in range(len(points_xy))
    ]
    right = _stack([_line("Encoder self-attention of the marked points", HEADING, half), _grid(panels, 2, cell)])
    heading = "Decoder cross-attention of each object's query"
    panels = [
        _query_panel(image, detections, n, queries[n], decoder_attention[n], cell) for n in range(len(detections))
    ]
    parts = [
        _line(title, LARGE, inner),
        _line(summary, SMALL, inner, SOFT),
        _grid([left, right], 2, half),
        _line(heading, HEADING, inner),
        _grid(panels, COLUMNS, cell),
        _legend(inner),
    ]
    return ImageOps.expand(_stack(parts, GAP + 4), MARGIN, "white")


def overlay_attention(image: Image.Image, attention: np.ndarray[Any, Any], size: tuple[int, int]) -> Image.Image:
    """Overlay attention on the gray image; the cell with the most attention is the brightest.

    Args:
        image: RGB.
        attention: `(h, w)`, not negative.
        size: (width, height) of the result.
    """
    strongest = float(attention.max())
    cells = Image.fromarray((attention / strongest if strongest > 0 else attention).astype(np.float32))
    heat = np.asarray(cells.resize(size, Image.Resampling.BICUBIC)).clip(0, 1)[..., None]  # (height, width, 1)
    gray = np.asarray(_resized(image, size).convert("L").convert("RGB"), dtype=np.float64) * _GRAY
    veil = _VEIL + (0.85 - _VEIL) * heat
    return Image.fromarray(((1 - veil) * gray + veil * _colors(heat[..., 0])).astype(np.uint8))


def _colors(heat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Colors `(…, 3)` of values between 0 and 1."""
    steps = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(heat, steps, channel) for channel in _HEAT.T], axis=-1)


def _draw_detections(
    image: Image.Image, detections: Detections, points_xy: Sequence[tuple[float, float]], size: tuple[int, int]
) -> Image.Image:
    factors = np.tile(np.divide(size, image.size), 2)
    captions = [f"{name} {score:.2f}" for name, score in zip(detections.labels, detections.scores, strict=True)]
    drawn = draw_boxes(
        _resized(image, size),
        detections.boxes_xyxy_px * factors,
        captions,
        detections.class_ids.tolist(),
        keep_free=[_disc(point, size) for point in points_xy],
    )
    for number, point in enumerate(points_xy):
        _mark(drawn, point, str(number + 1))
    return drawn


def _point_panel(
    image: Image.Image,
    points_xy: Sequence[tuple[float, float]],
    number: int,
    attention: np.ndarray[Any, Any],
    size: tuple[int, int],
) -> Image.Image:
    panel = overlay_attention(image, attention, size)
    _mark(panel, points_xy[number], str(number + 1))
    return panel


def _query_panel(
    image: Image.Image,
    detections: Detections,
    index: int,
    query: int,
    attention: np.ndarray[Any, Any],
    width: int,
) -> Image.Image:
    size = _fit(image.height / image.width, width)
    factors = np.tile(np.divide(size, image.size), 2)
    panel = overlay_attention(image, attention, size)
    panel = draw_boxes(
        panel, detections.boxes_xyxy_px[[index]] * factors, [""], [int(detections.class_ids[index])], BOX_LINE
    )
    caption = f"{detections.labels[index]} {detections.scores[index]:.2f} · query {query}"
    return _stack([panel, _line(caption, SMALL, width)], gap=6)


def _mark(image: Image.Image, point_xy: tuple[float, float], text: str) -> None:
    """Put a numbered disc on a point."""
    left, top, right, bottom = disc = _disc(point_xy, image.size)
    draw = ImageDraw.Draw(image)
    draw.ellipse(disc, fill="white", outline="black", width=2)
    line = fit_line(text, SMALL)
    x, y = (left + right - line.right + line.left) / 2, (top + bottom - line.bottom + line.top) / 2
    line.draw(draw, x, y, INK)


def _disc(point_xy: tuple[float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the disc on a point, wholly inside an image of `size` (width, height)."""
    x, y = (
        min(max(round(share * side), DISC + 1), side - DISC - 2) for share, side in zip(point_xy, size, strict=True)
    )
    return x - DISC, y - DISC, x + DISC, y + DISC


def _legend(width: int) -> Image.Image:
    """Draw the color scale with its meaning."""
    line = fit_line("no attention", SMALL)
    most = fit_line("most; each map is the mean over the heads, scaled to its maximum", SMALL)
    height = math.ceil(line.bottom - line.top) + 4
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    line.draw(draw, 0, 2, SOFT)
    begin = math.ceil(line.right - line.left) + 12
    ramp = _colors(np.tile(np.linspace(0, 1, 240), (height, 1))).astype(np.uint8)
    strip.paste(Image.fromarray(ramp), (begin, 0))
    most.draw(draw, begin + 240 + 12, 2, SOFT)
    return strip


def _line(text: str, size: int, width: int, ink: tuple[int, int, int] = INK) -> Image.Image:
    """A line of text as an image as wide as it needs."""
    line = fit_line(text, size, width)
    image = Image.new("RGB", (width, max(1, math.ceil(line.bottom - line.top))), "white")
    line.draw(ImageDraw.Draw(image), 0, 0, ink)
    return image


def _stack(images: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Stack images vertically."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    stack = Image.new("RGB", (max(image.width for image in images), height), "white")
    top = 0
    for image in images:
        stack.paste(image, (0, top))
        top += image.height + gap
    return stack


def _grid(images: Sequence[Image.Image], columns: int, width: int) -> Image.Image:
    """Arrange images in rows of cells of one width."""
    rows = []
    for first in range(0, len(images), columns):
        row = images[first : first + columns]
        strip = Image.new("RGB", (columns * (width + GAP) - GAP, max(image.height for image in row)), "white")
        for column, image in enumerate(row):
            strip.paste(image, (column * (width + GAP), 0))
        rows.append(strip)
    return _stack(rows)


def _fit(aspect: float, width: int) -> tuple[int, int]:
    """Return the (width, height) at which an image of an aspect (height / width) fits a panel of a width."""
    height = width * min(max(aspect, FLATTEST), TALLEST)
    if aspect > TALLEST:
        return max(1, round(height / aspect)), round(height)
    return width, max(1, round(width * aspect))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)
