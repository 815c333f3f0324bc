"""From facts and pictures to the text of a page."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image


def render_page(folder: Path, template: str, **facts: Any) -> str:
    """Return the text of a page.

    Args:
        folder: Where the template is; it extends `page.html.jinja` of this folder.
        template: Its file name.
        **facts: Its variables.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]), autoescape=True, trim_blocks=True
    )
    environment.filters |= {"percent": _percent, "signed": _signed, "score": _score, "width": _width}
    return environment.get_template(template).render(**facts)


def svg_url(svg: str) -> str:
    """A drawing as the address of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def jpeg_url(picture: Image.Image) -> str:
    """A picture as the address of an image."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _percent(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _width(value: float) -> float:
    return 0.0 if math.isnan(value) else round(100 * value, 1)
