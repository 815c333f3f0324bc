"""Colors of classes and charts."""

from __future__ import annotations

from PIL import ImageColor

Rgb = tuple[int, int, int]

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#0072B2")
"""Palette of Okabe and Ito without black: distinguishable under common color blindness."""

ORANGE, SKY_BLUE, GREEN, VERMILION, PURPLE, YELLOW, BLUE = PALETTE

# After the last color of the palette the hues repeat, mixed with white, then with black.
_SHADES = (("#FFFFFF", 0.0), ("#FFFFFF", 0.5), ("#000000", 0.3))


def class_color(class_id: int) -> Rgb:
    """Return the color of a class: always the same, and easy to distinguish from its neighbors.

    Args:
        class_id: Class id.

    Returns:
        Red, green and blue, 0 to 255.
    """
    shade, hue = divmod(class_id, len(PALETTE))
    other, amount = _SHADES[shade % len(_SHADES)]
    pairs = zip(ImageColor.getrgb(PALETTE[hue])[:3], ImageColor.getrgb(other)[:3], strict=True)
    red, green, blue = (round(own * (1 - amount) + mixed * amount) for own, mixed in pairs)
    return red, green, blue
