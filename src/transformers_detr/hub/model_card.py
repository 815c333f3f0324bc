"""Model cards of trained models, and the renderer of all cards."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from transformers_detr.hub.class_names import NO_CLASS
from transformers_detr.model.configuration_detr import DetrConfig

TEMPLATE = "model_card.md.jinja"
PIPELINE_TAGS = {
    "DetrForObjectDetection": "object-detection",
    "DetrForSegmentation": "image-segmentation",
    "TableTransformerForObjectDetection": "object-detection",
}
"""Hub's pipeline tag of each architecture."""

EXAMPLE_IMAGE = "http://images.cocodataset.org/val2017/000000039769.jpg"


def model_card(config: DetrConfig, repository: str, custom_code: bool = False, stock_can_resize: bool = True) -> str:
    """Return the card of a trained model. It states known facts only: no license, no claims.

    Args:
        config: Configuration of the model; its first architecture defines the task.
        repository: Hub id of the card's repository.
        custom_code: The repository contains the files of `model/`.
        stock_can_resize: Whether stock Transformers can resize to the image processor's size.

    Returns:
        Markdown with metadata.

    Raises:
        ValueError: The architecture has no task.
    """
    architecture = (config.architectures or [""])[0]
    if architecture not in PIPELINE_TAGS:
        raise ValueError(f"architectures must begin with one of {', '.join(PIPELINE_TAGS)}, got {config.architectures}")
    task = PIPELINE_TAGS[architecture]
    names = [config.id2label[label] for label in sorted(config.id2label)]
    return render_card(
        TEMPLATE,
        {"pipeline_tag": task, "tags": [config.model_type, "vision", task]},
        title=repository.rpartition("/")[2],
        task=task,
        repository=repository,
        custom_code=custom_code,
        stock_can_resize=stock_can_resize,
        config=config,
        backbone=config.backbone or config.backbone_config.model_type,  # type: ignore[union-attr]
        class_names=[name for name in names if name != NO_CLASS],
    )


def render_card(template: str, card_metadata: dict[str, Any], folders: Sequence[Path] = (), **variables: Any) -> str:
    """Render a card.

    Args:
        template: Name of the template file.
        card_metadata: Arguments of huggingface_hub's `ModelCardData`; those that are None are omitted.
        folders: Folders to search for templates before this one.
        **variables: Variables of the template; a missing one is an error. `photo` is the image in the snippets.

    Returns:
        Markdown with metadata.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the result is Markdown
    )
    card_data = ModelCardData(library_name="transformers", **card_metadata)
    return templates.get_template(template).render(
        **{"card_data": card_data, "photo": EXAMPLE_IMAGE, "project_url": project_url()} | variables
    )


def project_url() -> str:
    """Return the address of this package's repository, from its metadata."""
    entries = (entry.split(", ", 1) for entry in metadata("transformers-detr").get_all("Project-URL", []))
    return dict(entries)["Repository"]
