"""From facts to the text of a card, by the templates of this folder."""

from __future__ import annotations

from typing import Any

import jinja2
from huggingface_hub import ModelCardData

TASKS = {"DetrForObjectDetection": "object-detection", "DetrForSegmentation": "image-segmentation"}
"""Architecture in config.json → the Hub's name of what it does."""

EXAMPLE_PHOTO = "http://images.cocodataset.org/val2017/000000039769.jpg"
WIDGET_PHOTOS = {
    "Savanna": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/savanna.jpg",
    "Football match": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/football-match.jpg",
    "Airport": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/airport.jpg",
}

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("transformers_detr.hub", "."),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # the result is Markdown
)


def render(template: str, metadata: dict[str, Any], **facts: Any) -> str:
    """Return the text of a card.

    Args:
        template: File in this folder.
        metadata: Arguments of huggingface_hub's `ModelCardData`; what is None is left out.
        **facts: Variables of the template; one that it needs and does not get is an error.
    """
    card_data = ModelCardData(library_name="transformers", **metadata)
    return _templates.get_template(template).render(card_data=card_data, photo=EXAMPLE_PHOTO, **facts)
