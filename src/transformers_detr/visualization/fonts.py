"""Letters on pictures: a line of text in whatever scripts, with fonts of this machine that know them."""

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
    """A line of text, ready to be written.

    Attributes:
        runs: Parts of the text with the font of each.
        left: Of the ink, right of the point where the text begins, in pixels.
        top: Of the ink, below the base line; negative.
        right: As `left`.
        bottom: As `top`.
    """

    runs: tuple[tuple[str, ImageFont.FreeTypeFont], ...]
    left: float
    top: float
    right: float
    bottom: float

    @property
    def text(self) -> str:
        """The text, as far as it fitted."""
        return "".join(text for text, _ in self.runs)

    def write(self, draw: ImageDraw.ImageDraw, left: float, top: float, ink: Ink) -> None:
        """Write the line with the upper left corner of its extent at a place."""
        x, base = left - self.left, top - self.top
        for text, font in self.runs:
            draw.text((x, base), text, fill=ink, font=font, anchor="ls")
            x += font.getlength(text)


def line_of(text: str, size: int, width: float = float("inf")) -> Line:
    """Set a text as one line.

    Where one font knows all of it, that font is taken, first of all Pillow's own; otherwise each part gets a
    font that knows it. Characters that no font knows show as what the font draws for them, mostly empty boxes, and
    are named once in a warning of this module's logger. Fonts are looked for where the system and the user keep
    them, and in matplotlib, which brings DejaVu.

    Args:
        text: Any text; line breaks and the like become spaces.
        size: Of the letters, in pixels.
        width: Pixels that the line may take; a longer text is cut and ends in "…", or nothing is left of it.

    Returns:
        A line at least as high as letters that rise and fall, so that lines of a size look alike.
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
    """Divide a text into parts of one font each."""
    best = _font_file(text)
    if not _unknown(text, best):
        return ((best, text),) if text else ()
    fonts = list(_fonts_of_characters(text, best))
    _report(frozenset(character for character, font in zip(text, fonts, strict=True) if _unknown(character, font)))
    pairs = groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0])
    return tuple((font, "".join(character for _, character in group)) for font, group in pairs)


def _fonts_of_characters(text: str, best: Path | None) -> Iterator[Path | None]:
    """Yield each character's font; spaces and marks keep that of the character before."""
    current = best
    for character in text:
        if _is_visible(character):
            current = best if not _unknown(character, best) else _font_file(character)
        yield current


@functools.lru_cache(maxsize=4096)
def _font_file(text: str) -> Path | None:
    """Return the font that knows the most characters of a text: Pillow's own, None, if it knows them all."""
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
            "No font of this machine has the characters %s; a font that has them, such as one of the Noto family,"
            " is found in ~/.fonts and where the system keeps fonts",
            " ".join(sorted(characters)),
        )


@functools.lru_cache(maxsize=64)
def _font(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    """Open a font file; None is the font inside Pillow."""
    if path is not None:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("this Pillow was built without FreeType, so it cannot write letters of a given size")
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
        and not path.name.startswith("LastResort")  # it has a sign for every block of characters, but no letters
    ]
    return tuple(sorted(files, key=_plainness))


def _plainness(path: Path) -> tuple[bool, bool, int, str]:
    name = path.stem.lower()
    return any(word in name for word in _DECORATED), "sans" not in name, len(name), path.as_posix()
