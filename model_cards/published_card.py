"""Cards of the published checkpoints, rendered from `transformers_detr.hub.published_checkpoints`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult

from transformers_detr.hub.model_card import render_card
from transformers_detr.hub.published_checkpoints import DETR, KNOWN_DETECTIONS_39769, PAPER, TABLE_5, Checkpoint, Source

WIDGET_IMAGES = {
    "Savanna": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/savanna.jpg",
    "Football match": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/football-match.jpg",
    "Airport": "https://huggingface.co/datasets/mishig/sample_images/resolve/main/airport.jpg",
}


class Score(NamedTuple):
    """Published score: name of the metric, value in per cent, source."""

    metric: str
    value: float
    source: Source


def published_card(checkpoint: Checkpoint, repository: str | None = None, custom_code: bool = False) -> str:
    """Return the card of a published checkpoint.

    Its snippets for tables take the user's own image of a page.

    Args:
        checkpoint: Checkpoint.
        repository: Hub id of the card's repository, by default the published one.
        custom_code: The repository contains the files of `model/`.
    """
    task = "image-segmentation" if checkpoint.segmentation else "object-detection"
    project, finds_tables = checkpoint.project, bool(checkpoint.class_names)
    metadata = {
        "license": project.license,
        "pipeline_tag": task,
        "datasets": ["bsmock/pubtables-1m" if finds_tables else "coco"],
        "tags": [project.model_type, "vision", task],
        "widget": None
        if finds_tables
        else [{"src": address, "example_title": title} for title, address in WIDGET_IMAGES.items()],
        "model_name": checkpoint.name,
        "eval_results": [_eval_result(score, checkpoint) for score in scores(checkpoint)] or None,
    }
    return render_card(
        "published_card.md.jinja" if project is DETR else "pre_norm_card.md.jinja",
        metadata,
        [Path(__file__).parent],
        title=checkpoint.name,
        task=task,
        repository=repository or checkpoint.hub_id or checkpoint.name,
        **({"photo": "page.png"} if finds_tables else {}),
        custom_code=custom_code,
        stock_can_resize="shortest_edge" in checkpoint.size,
        checkpoint=checkpoint,
        classes=len(checkpoint.thing_names) + len(checkpoint.stuff_names),
        paper=PAPER,
        scores=scores(checkpoint),
        known_detections=KNOWN_DETECTIONS_39769 if checkpoint.name == "detr-resnet-50" else (),
    )


def scores(checkpoint: Checkpoint) -> list[Score]:
    """Return the published scores of a checkpoint."""
    values = checkpoint.published
    boxes = {
        "box AP": values.box_ap,
        "box AP50": values.box_ap50,
        "box AP75": values.box_ap75,
        "box AP small": values.box_ap_small,
        "box AP medium": values.box_ap_medium,
        "box AP large": values.box_ap_large,
    }
    segments = {"mask AP": values.mask_ap, "PQ": values.panoptic_quality}
    return [
        Score(metric, value, source)
        for metrics, source in ((boxes, checkpoint.box_source), (segments, TABLE_5))
        for metric, value in metrics.items()
        if value is not None
    ]


def _eval_result(score: Score, checkpoint: Checkpoint) -> EvalResult:
    task = "object-detection" if score.metric.startswith("box") else "image-segmentation"
    return EvalResult(
        task_type=task,
        task_name=task.replace("-", " ").capitalize(),
        dataset_type="pubtables-1m" if checkpoint.class_names else "coco",
        dataset_name=checkpoint.project.data,
        dataset_split="test" if checkpoint.class_names else "validation",
        metric_type=score.metric.lower().replace(" ", "_"),
        metric_name=score.metric,
        metric_value=score.value,
        source_name=score.source.name,
        source_url=score.source.url,
    )
