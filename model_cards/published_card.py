"""Cards of the published checkpoints, rendered from `transformers_detr.hub.published_checkpoints`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult

from transformers_detr.hub.model_card import render_card
from transformers_detr.hub.published_checkpoints import KNOWN_DETECTIONS_39769, PAPER, TABLE_5, Checkpoint, Source

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

    Args:
        checkpoint: Checkpoint.
        repository: Hub id of the card's repository, by default the published one.
        custom_code: The repository contains the files of `model/`.
    """
    task = "image-segmentation" if checkpoint.segmentation else "object-detection"
    metadata = {
        "license": "apache-2.0",
        "pipeline_tag": task,
        "datasets": ["coco"],
        "tags": ["detr", "vision", task],
        "widget": [{"src": address, "example_title": title} for title, address in WIDGET_IMAGES.items()],
        "model_name": checkpoint.name,
        "eval_results": [_eval_result(score) for score in scores(checkpoint)],
    }
    return render_card(
        "published_card.md.jinja",
        metadata,
        [Path(__file__).parent],
        title=checkpoint.name,
        task=task,
        repository=repository or checkpoint.hub_id,
        custom_code=custom_code,
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


def _eval_result(score: Score) -> EvalResult:
    task = "object-detection" if score.metric.startswith("box") else "image-segmentation"
    return EvalResult(
        task_type=task,
        task_name=task.replace("-", " ").capitalize(),
        dataset_type="coco",
        dataset_name="COCO 2017",
        dataset_split="validation",
        metric_type=score.metric.lower().replace(" ", "_"),
        metric_name=score.metric,
        metric_value=score.value,
        source_name=score.source.name,
        source_url=score.source.url,
    )
