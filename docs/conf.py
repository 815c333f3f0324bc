"""How Sphinx builds the site: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from transformers_detr import __version__

project = "transformers-detr"
author = "The transformers-detr authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
suppress_warnings = ["autodoc.mocked_object"]


def write_command_line(app: Any) -> None:
    """Let typer describe the command `detr`, from which the page of the command line is made."""
    page = Path(app.srcdir, "reference", "command-line.md")
    command = [sys.executable, "-m", "typer", "transformers_detr.cli", "utils", "docs", "--name", "detr"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    text = text.replace("# `detr`", "# Command line", 1)
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def translate_markdown(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn code of docstrings, fenced or between single backticks, into what reStructuredText calls code."""
    inside, found = False, []
    for line in lines:
        if line.strip().startswith("```"):
            inside = not inside
            found += [line.replace("```python", ".. code-block:: python"), ""] if inside else [""]
        else:
            literal = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line)
            found.append(f"   {line}" if inside and line else literal)
    lines[:] = found


def setup(app: Any) -> None:
    """Connect both."""
    app.connect("builder-inited", write_command_line)
    app.connect("autodoc-process-docstring", translate_markdown, priority=400)  # before napoleon
