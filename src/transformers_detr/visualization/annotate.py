"""Draw boxes or segments with captions on an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from transformers_detr.visualization.fonts import Line, fit_line
from transformers_detr.visualization.palette import Rgb, class_color

_MIN_FONT_SIZE = 8
_MIN_LINES = 4
_TINT = 0.5
_PLACE_CELLS = 100

Rectangle = tuple[int, int, int, int]
Corners = Sequence[tuple[int, int]]


def draw_boxes(
    image: Image.Image,
    boxes_xyxy_px: ArrayLike,
    captions: Sequence[str],
    labels: Sequence[int],
    line_width: int | None = None,
    keep_free: Sequence[Rectangle] = (),
) -> Image.Image:
    """Draw boxes with captions on a copy of an image.

    Line width and font size grow with the image. A caption sits above its box where there is room that no
    other caption has taken, or else where it covers the least of others, and always lies inside the frame; one that
    is wider than the image is cut. Images of less than 32 pixels, whose captions would hide them, get boxes alone.

    Args:
        image: The image, of any mode.
        boxes_xyxy_px: `(N, 4)`, left, top, right, bottom in pixels; parts outside the image are cut off,
            boxes that lie outside altogether or are not finite are left out.
        captions: N texts, of any script that a font of this machine knows. The first ones lie on top.
        labels: N class ids, which choose the colors.
        line_width: In pixels. If not given, it follows from the size of the image.
        keep_free: Places (left, top, right, bottom), in pixels, that captions evade as they evade each other.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: The three do not have the same length, or boxes do not have four columns.
    """
    boxes = np.asarray(boxes_xyxy_px, dtype=np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes_xyxy_px must have the shape (N, 4), got {boxes.shape}")
    if not len(boxes) == len(captions) == len(labels):
        raise ValueError(
            "boxes_xyxy_px, captions and labels must have the same length,"
            f" got {len(boxes)}, {len(captions)} and {len(labels)}"
        )
    canvas = image.convert("RGB") if image.mode != "RGB" else image.copy()
    line_width = line_width or _line_width(canvas)

    visible = [
        (rectangle, caption, class_color(int(label)))
        for box, caption, label in zip(boxes, captions, labels, strict=True)
        if (rectangle := _inside(box, canvas.size)) is not None
    ]
    draw = ImageDraw.Draw(canvas)
    for rectangle, _, color in reversed(visible):
        _draw_frame(draw, rectangle, color, line_width)
    chips = [(caption, color, partial(_around_box, rectangle)) for rectangle, caption, color in visible]
    _draw_chips(canvas, chips, keep_free=keep_free)
    return canvas


def draw_segments(
    image: Image.Image, segmentation: ArrayLike, ids: Sequence[int], captions: Sequence[str], labels: Sequence[int]
) -> Image.Image:
    """Draw segments on a copy of an image: tinted areas, outlines, and captions where a segment is widest.

    Larger segments get their caption first; one that finds no free place is left out.

    Args:
        image: The image, of any mode.
        segmentation: `(H, W)`, the segment id of each pixel.
        ids: N segment ids; pixels with others stay as they are.
        captions: N texts.
        labels: N class ids, which choose the colors.

    Returns:
        An RGB image of the same size.

    Raises:
        ValueError: The three do not have the same length, or the map does not have the size of the image.
    """
    segments = np.asarray(segmentation)
    if segments.shape != (image.height, image.width):
        raise ValueError(f"segmentation must have the shape {(image.height, image.width)}, got {segments.shape}")
    if not len(ids) == len(captions) == len(labels):
        raise ValueError(
            f"ids, captions and labels must have the same length, got {len(ids)}, {len(captions)} and {len(labels)}"
        )
    canvas = image.convert("RGB")
    line_width = _line_width(canvas)
    outline = _near_edge(segments, line_width)
    pixels = np.array(canvas)
    drawn = []
    for number, caption, label in zip(ids, captions, labels, strict=True):
        mask, color = segments == number, class_color(int(label))
        pixels[mask] = (1 - _TINT) * pixels[mask] + _TINT * np.array(color)
        pixels[mask & outline] = color
        if mask.any():
            drawn.append((np.count_nonzero(mask), caption, color, partial(_on_point, _widest_place(mask))))
    pixels[_near_edge(segments, max(1, line_width // 4)) & np.isin(segments, ids)] = 0  # segments of one class differ
    canvas = Image.fromarray(pixels)
    drawn.sort(key=lambda entry: -entry[0])
    _draw_chips(canvas, [entry[1:] for entry in drawn], may_overlap=False)
    return canvas


def upright_image(given: Image.Image | None, kept: Image.Image | None, image_size: tuple[int, int]) -> Image.Image:
    """Choose the image that results are drawn on.

    Args:
        given: The one that the caller gives, which comes first.
        kept: The one that the results carry.
        image_size: (height, width) that the results refer to.

    Raises:
        ValueError: There is neither, or its size is another.
    """
    image = kept if given is None else given
    if image is None:
        raise ValueError("draw needs the image: give it, or keep it with keep_images=True")
    if (image.height, image.width) != image_size:
        raise ValueError(
            f"image must have the size (height, width) {image_size} that the results refer to,"
            f" got {(image.height, image.width)}; is it upright (PIL.ImageOps.exif_transpose)?"
        )
    return image


def contact_sheet(images: Sequence[Image.Image], columns: int = 3, gap: int = 8) -> Image.Image:
    """Put images of one width side by side on white, row by row."""
    width = max(image.width for image in images)
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    heights = [max(image.height for image in row) for row in rows]
    size = (columns * (width + gap) + gap, sum(heights) + (len(rows) + 1) * gap)
    sheet = Image.new("RGB", size, "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (gap + column * (width + gap), top))
        top += height + gap
    return sheet


def _near_edge(segments: np.ndarray, width: int) -> np.ndarray:
    """`(H, W)`: True within `width` pixels, along rows and columns, of another segment."""
    near = np.zeros(segments.shape, dtype=bool)
    for values, marks in ((segments, near), (segments.T, near.T)):
        for distance in range(1, width + 1):
            differs = values[distance:] != values[:-distance]
            marks[distance:] |= differs
            marks[:-distance] |= differs
    return near


def _widest_place(mask: np.ndarray) -> tuple[int, int]:
    """Return x and y of the pixel of a mask that is farthest from its edge, about."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    step = 1 + max(rows[-1] - rows[0], columns[-1] - columns[0]) // _PLACE_CELLS
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(mask[top : rows[-1] + 1 : step, left : columns[-1] + 1 : step], 1)
    if not inside.any():  # between the cells
        y, x = np.argwhere(mask)[0]
        return int(x), int(y)
    while inside.any():
        last = inside
        inside = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        inside = np.pad(inside, 1)
    cells = np.argwhere(last) - 1
    row, column = cells[len(cells) // 2]
    return left + int(column) * step, top + int(row) * step


def _draw_chips(
    canvas: Image.Image,
    captions: Sequence[tuple[str, Rgb, Callable[[tuple[int, int]], Corners]]],
    may_overlap: bool = True,
    keep_free: Sequence[Rectangle] = (),
) -> None:
    """Write captions, the first ones on top.

    Args:
        canvas: Is drawn on.
        captions: Text, color, and what turns the chip's width and height into the corners where it may go.
        may_overlap: Whether to write those that find no free place.
        keep_free: Places to evade.
    """
    letters = max(_MIN_FONT_SIZE, round(math.sqrt(canvas.width * canvas.height) / 40))
    if letters * _MIN_LINES > min(canvas.size):
        return  # they would hide the image
    margin = max(1, round(letters / 6))
    chips: list[tuple[Rectangle, Line, Rgb]] = []
    for caption, color, corners in captions:
        line = fit_line(caption, letters, canvas.width - 2 * margin)
        chip_size = _chip_size(line, margin)
        if line.runs and chip_size[1] <= canvas.height:
            taken = [*keep_free, *(chip for chip, *_ in chips)]
            chip = _place_chip(chip_size, corners(chip_size), canvas.size, taken)
            if may_overlap or not _covered(chip, taken):
                chips.append((chip, line, color))
    draw = ImageDraw.Draw(canvas)
    for chip, line, color in reversed(chips):
        _draw_chip(draw, chip, line, margin, color)


def _inside(box: np.ndarray, size: tuple[int, int]) -> Rectangle | None:
    """Return the box's part inside an image of `size` (width, height), in whole pixels, or None."""
    width, height = size
    if not np.isfinite(box).all():
        return None
    left, top, right, bottom = box
    if right < 0 or bottom < 0 or left > width or top > height or right < left or bottom < top:
        return None
    left, right = (min(max(round(x), 0), width - 1) for x in (left, right))
    top, bottom = (min(max(round(y), 0), height - 1) for y in (top, bottom))
    return left, top, right, bottom


def _line_width(canvas: Image.Image) -> int:
    return max(1, round(math.sqrt(canvas.width * canvas.height) / 300))


def _draw_frame(draw: ImageDraw.ImageDraw, rectangle: Rectangle, color: Rgb, line_width: int) -> None:
    """Draw the outline, with a thin dark rim that shows on a ground of the same color."""
    left, top, right, bottom = rectangle
    if line_width > 1:
        rim = max(1, line_width // 4)
        outer = (left - rim, top - rim, right + rim, bottom + rim)
        draw.rectangle(outer, outline=(0, 0, 0), width=line_width + 2 * rim)
    draw.rectangle(rectangle, outline=color, width=line_width)


def _draw_chip(draw: ImageDraw.ImageDraw, chip: Rectangle, line: Line, margin: int, color: Rgb) -> None:
    """Fill the chip with the color of the class and write on it in black or white."""
    red, green, blue = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 128
    left, top, right, bottom = chip
    draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
    line.draw(draw, left + margin, top + margin, (0, 0, 0) if bright else (255, 255, 255))


def _chip_size(line: Line, margin: int) -> tuple[int, int]:
    """Return the width and height of a line with a margin around it."""
    return math.ceil(line.right - line.left) + 2 * margin, math.ceil(line.bottom - line.top) + 2 * margin


def _around_box(box: Rectangle, chip_size: tuple[int, int]) -> Corners:
    """Return where a chip's upper left corner may go, first the best place."""
    left, top, right, bottom = box
    chip_width, chip_height = chip_size
    return [
        (left, top - chip_height),  # above the box
        (left, top),  # inside its upper left corner
        (right - chip_width, top - chip_height),
        (left, bottom),  # below
        (right - chip_width, top),
        (left, bottom - chip_height),
        (right - chip_width, bottom - chip_height),
    ]


def _on_point(point: tuple[int, int], chip_size: tuple[int, int]) -> Corners:
    """Return where a chip's upper left corner may go: centered on a point, or just above or below it."""
    x, y = point[0] - chip_size[0] // 2, point[1] - chip_size[1] // 2
    return [(x, y), (x, y - chip_size[1]), (x, y + chip_size[1])]


def _place_chip(
    chip_size: tuple[int, int], corners: Corners, size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Return the chip's rectangle: at the first corner inside the frame that is free, else the least covered one."""
    width, height = size
    chip_width, chip_height = chip_size
    within = [(x, y) for x, y in corners if 0 <= y <= height - chip_height]
    if not within:
        left, top = corners[0]
        within = [(left, min(max(top, 0), height - chip_height))]
    lefts = [min(max(x, 0), width - chip_width) for x, _ in within]
    chips = [(x, y, x + chip_width, y + chip_height) for x, (_, y) in zip(lefts, within, strict=True)]
    return min(chips, key=partial(_covered, taken=taken))


def _covered(chip: Rectangle, taken: Sequence[Rectangle]) -> int:
    """Return the number of a chip's pixels that other chips cover; pixels covered twice count twice."""
    left, top, right, bottom = chip
    return sum(
        max(0, min(right, other[2]) - max(left, other[0])) * max(0, min(bottom, other[3]) - max(top, other[1]))
        for other in taken
    )
