"""Lines of text: fonts that know the letters, several in one line where none knows all, and a word where none does."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw

from transformers_detr.visualization import fonts
from transformers_detr.visualization.fonts import fit_line


@pytest.fixture
def no_memory():
    """Forget what fonts were found, before and after."""
    caches = (fonts._font_file, fonts._parts, fonts._report)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.fixture
def dejavu():
    if not any(path.name == "DejaVuSans.ttf" for path in fonts._installed_fonts()):
        pytest.skip("DejaVu Sans is not installed")


def written(line):
    """Where the ink of a line lies, written at (20, 30)."""
    canvas = Image.new("L", (600, 100))
    line.draw(ImageDraw.Draw(canvas), 20, 30, 255)
    rows, columns = np.nonzero(np.asarray(canvas))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("text", ["cat 0.98", "jüngste Möwe", "человек 0.98", "قطة 0.98", "ชาย cat человек"])
def test_ink_lies_within_the_extent(text):
    line = fit_line(text, 24)
    left, top, right, bottom = written(line)
    assert left >= 20
    assert top >= 30
    assert right <= np.ceil(20 + line.right - line.left)
    assert bottom <= np.ceil(30 + line.bottom - line.top)
    assert line.text == text


def test_too_long_a_text_is_cut():
    whole = fit_line("refrigerator 0.98", 20)
    cut = fit_line("refrigerator 0.98", 20, 60)
    assert cut.text.endswith("…")
    assert "refrigerator".startswith(cut.text[:-1])
    assert cut.right - cut.left <= 60 < whole.right - whole.left
    assert not fit_line("refrigerator 0.98", 20, 5).runs
    assert not fit_line("", 20).runs


def test_lines_of_a_size_are_equally_high():
    heights = {fit_line(text, 20).bottom - fit_line(text, 20).top for text in ("a", "cat", "dog", "A", "y")}
    assert len(heights) == 1


def test_a_font_that_knows_the_script_is_found(dejavu):
    assert fonts._font_file("cat 0.98") is None
    found = fonts._font_file("человек 0.98")
    assert found is not None
    assert fonts._unknown("человек", found) == 0
    assert fonts._unknown("человек", None) == 6


def test_signs_in_place_of_letters_are_no_font():
    assert not any("LastResort" in path.name for path in fonts._installed_fonts())


def test_scripts_that_no_one_font_knows_share_a_line(monkeypatch, no_memory):
    """Two made-up fonts, one of which knows digits alone and the other one letters alone."""
    knows = {"digits.ttf": str.isdigit, "letters.ttf": str.isalpha, None: lambda character: False}
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: ("digits.ttf", "letters.ttf"))
    monkeypatch.setattr(fonts, "_unknown", lambda text, path: sum(not knows[path](c) for c in text if c != " "))
    assert fonts._parts("ab 12 c") == (("letters.ttf", "ab "), ("digits.ttf", "12 "), ("letters.ttf", "c"))


def test_machine_without_fonts_says_what_it_lacks_once(monkeypatch, no_memory, caplog):
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: ())
    with caplog.at_level(logging.WARNING):
        fit_line("word 0.98", 20)
        assert not caplog.records
        fit_line("椅子 0.98", 20)
        fit_line("椅子 0.97", 20)
    (record,) = caplog.records
    assert "glyphs for 子 椅;" in record.getMessage()


def test_unreadable_font_file_is_passed_over(tmp_path, monkeypatch, no_memory):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: (broken,))
    assert fonts._font_file("человек") is None
