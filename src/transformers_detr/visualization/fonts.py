"""Text rendering with fallback fonts: a line of text in any script that an installed font supports."""

from __future__ import annotations

import functools
import importlib.util
import logging
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

logger = logging.getLogger(__name__)

_FONT_FOLDERS = (
    "~/.fonts",
    "~/.local/share/fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/Library/Fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
_DECORATED = ("bold", "italic", "oblique", "serif", "mono", "math", "condensed", "light", "display")
_LONGEST = 100
_UNASSIGNED = "\U0010fffe"  # no font has a glyph for it, so it shows what a font draws instead

Ink = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """Line of text, ready to be drawn.

    Attributes:
        runs: Parts of the text with their fonts.
        left: Left edge of the ink relative to the start of the text, in pixels.
        top: Top edge of the ink relative to the base line; negative.
        right: Right edge, like `left`.
        bottom: Bottom edge, like `top`.
    """

    runs: tuple[tuple[str, ImageFont.FreeTypeFont], ...]
    left: float
    top: float
    right: float
    bottom: float

    @property
    def text(self) -> str:
        """Text that fitted."""
        return "".join(text for text, _ in self.runs)

    def draw(self, canvas: ImageDraw.ImageDraw, left: float, top: float, ink: Ink) -> None:
        """Draw the line with the upper left corner of its extent at a point."""
        x, base = left - self.left, top - self.top
        for text, font in self.runs:
            canvas.text((x, base), text, fill=ink, font=font, anchor="ls")
            x += font.getlength(text)


def fit_line(text: str, size: int, width: float = float("inf")) -> Line:
    """Fit a text into one line.

    If one font has glyphs for the whole text, it is used, preferably Pillow's default font; otherwise each part gets a
    font that has its glyphs. Characters without a glyph are drawn as the font's replacement, mostly empty boxes, and
    logged once in a warning. Fonts are searched in the font folders of the system and the user, and in matplotlib,
    which includes DejaVu.

    Args:
        text: Any text; line breaks and the like become spaces.
        size: Font size in pixels.
        width: Largest width in pixels; a longer text is truncated with "…", or empty.

    Returns:
        A line at least as high as ascenders and descenders, so that lines of one size have one height.
    """
    whole = " ".join(text.split())[:_LONGEST]
    line = _set(whole, size)
    while line.runs and line.right - line.left > width:
        whole = whole[:-1]
        line = _set(whole and whole + "…", size)
    return line


def _set(text: str, size: int) -> Line:
    runs = tuple((part, _font(path, size)) for path, part in _parts(text))
    x, left, top, right, bottom = 0.0, 0.0, 0.0, 0.0, 0.0
    for number, (part, font) in enumerate(runs):
        box = font.getbbox(part, anchor="ls")
        _, rise, _, fall = font.getbbox("Ady" + part, anchor="ls")
        left = box[0] if number == 0 else left
        top, right, bottom = min(top, rise), max(right, x + box[2]), max(bottom, fall)
        x += font.getlength(part)
    return Line(runs, left, top, right, bottom)


@functools.lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[tuple[Path | None, str], ...]:
    """Split a text into parts of one font each."""
    best = _font_file(text)
    if not _unknown(text, best):
        return ((best, text),) if text else ()
    fonts = list(_fonts_of_characters(text, best))
    _report(frozenset(character for character, font in zip(text, fonts, strict=True) if _unknown(character, font)))
    pairs = groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0])
    return tuple((font, "".join(character for _, character in group)) for font, group in pairs)


def _fonts_of_characters(text: str, best: Path | None) -> Iterator[Path | None]:
    """Yield the font of each character; spaces and marks use the font of the previous character."""
    current = best
    for character in text:
        if _is_visible(character):
            current = best if not _unknown(character, best) else _font_file(character)
        yield current


@functools.lru_cache(maxsize=4096)
def _font_file(text: str) -> Path | None:
    """Return the font with glyphs for most characters of a text; None for Pillow's default font if it has all."""
    best, fewest = None, _unknown(text, None)
    for path in _installed_fonts() if fewest else ():
        unknown = _unknown(text, path)
        if unknown < fewest:
            best, fewest = path, unknown
        if not fewest:
            break
    return best


def _unknown(text: str, path: Path | None) -> int:
    """Count the visible characters for which a font has no glyph of its own."""
    visible = set(filter(_is_visible, text))
    try:
        font = _font(path, 16)
        blank = bytes(font.getmask(_UNASSIGNED))
        return sum(bytes(font.getmask(character)) in (blank, b"") for character in visible)
    except OSError:  # a font file that FreeType cannot read
        return len(visible)


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "MCZ"


@functools.lru_cache(maxsize=1024)
def _report(characters: frozenset[str]) -> None:
    if characters:
        logger.warning(
            "No installed font has glyphs for %s; install one that does, such as a font of the Noto family, in the"
            " system's font folder or in ~/.fonts",
            " ".join(sorted(characters)),
        )


@functools.lru_cache(maxsize=64)
def _font(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """Open a font file; None is the font inside Pillow."""
    if path is not None:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("this Pillow was built without FreeType, so it cannot draw text of a given size")
    return font


@functools.cache
def _installed_fonts() -> tuple[Path, ...]:
    """List the font files of this machine, plain sans-serif faces first."""
    folders = [Path(folder).expanduser() for folder in _FONT_FOLDERS]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in {".ttf", ".otf", ".ttc"}
        and not path.name.startswith("LastResort")  # it has one symbol per block of characters, but no letters
    ]
    return tuple(sorted(files, key=_plainness))


def _plainness(path: Path) -> tuple[bool, bool, int, str]:
    name = path.stem.lower()
    return any(word in name for word in _DECORATED), "sans" not in name, len(name), path.as_posix()
