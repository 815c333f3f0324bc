"""The card of a model of one's own: what its configuration says, and what was measured."""

from __future__ import annotations

from transformers_detr.hub.card_rendering import TASKS, render
from transformers_detr.hub.published_checkpoints import NO_CLASS
from transformers_detr.model.configuration_detr import DetrConfig


def own_card(config: DetrConfig, repository: str, custom_code: bool = False) -> str:
    """Return the card of a model that says nothing but what is known: no license, no claims.

    Args:
        config: Of the model; its first architecture says what it does.
        repository: Hub id of where the card will stand.
        custom_code: Whether the files of `model/` are there too.

    Raises:
        ValueError: The architecture is not one that has a task.
    """
    architecture = (config.architectures or [""])[0]
    if architecture not in TASKS:
        raise ValueError(f"architectures must begin with one of {', '.join(TASKS)}, got {config.architectures}")
    task = TASKS[architecture]
    names = [config.id2label[label] for label in sorted(config.id2label)]
    return render(
        "own.md.jinja",
        {"pipeline_tag": task, "tags": ["detr", "vision", task]},
        title=repository.rpartition("/")[2],
        task=task,
        repository=repository,
        custom_code=custom_code,
        config=config,
        backbone=config.backbone or config.backbone_config.model_type,  # type: ignore[union-attr]
        class_names=[name for name in names if name != NO_CLASS],
    )
