"""Self-contained HTML pages of reports."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image


def render_page(folder: Path, template: str, **variables: Any) -> str:
    """Render a page.

    Args:
        folder: Folder of the template, which extends `page.html.jinja` of this folder.
        template: File name of the template.
        **variables: Variables of the template.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]), autoescape=True, trim_blocks=True
    )
    environment.filters |= {"metric": _metric, "signed": _signed, "score": _score, "width": _width}
    return environment.get_template(template).render(**variables)


def svg_url(svg: str) -> str:
    """Return an SVG drawing as a data URL."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def jpeg_url(image: Image.Image) -> str:
    """Return an image as a JPEG data URL."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _metric(value: float) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"


def _score(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _width(value: float) -> float:
    return 0.0 if math.isnan(value) else round(value, 1)
