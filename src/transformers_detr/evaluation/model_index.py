"""Results in the format of the Hub's model cards, with the evidence for each number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from transformers_detr.evaluation.scoring import Evaluation


@dataclass(frozen=True)
class Evidence:
    """Evidence for a number: dataset and command.

    Attributes:
        dataset_name: For people, such as "COCO 2017".
        dataset_type: For machines, such as a Hub dataset's id.
        dataset_split: Such as "val".
        command: Command that reproduces the number.
        dataset_revision: Commit or version of the data.
        source_url: A page that documents the measurement.
    """

    dataset_name: str
    dataset_type: str
    dataset_split: str
    command: str | None = None
    dataset_revision: str | None = None
    source_url: str | None = None


def eval_results(evaluation: Evaluation, evidence: Evidence) -> list[EvalResult]:
    """Return the headline numbers with two decimals, as model cards give them."""
    boxes, masks, panoptic = evaluation.boxes, evaluation.masks, evaluation.panoptic
    limit = {"max_detections": boxes.max_detections[-1]}
    results = [
        _result("object-detection", f"box {name}", boxes.summary[name], evidence, limit)
        for name in ("AP", "AP50", "AP75")
    ]
    if masks:
        results.append(_result("image-segmentation", "mask AP", masks.summary["AP"], evidence, limit))
    if panoptic:
        scores = panoptic.all
        results += [
            _result("image-segmentation", name, value, evidence, {})
            for name, value in (("PQ", scores.pq), ("SQ", scores.sq), ("RQ", scores.rq))
        ]
    return [result for result in results if result.metric_value is not None]


def model_index(model_name: str, results: list[EvalResult]) -> list[dict[str, Any]]:
    """Return the `model-index` entry of a model card's metadata."""
    index: list[dict[str, Any]] = eval_results_to_model_index(model_name, results)
    return index


def _result(task: str, name: str, value: float, evidence: Evidence, metric_args: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type=task,
        task_name=task.replace("-", " ").capitalize(),
        dataset_type=evidence.dataset_type,
        dataset_name=evidence.dataset_name,
        dataset_split=evidence.dataset_split,
        dataset_revision=evidence.dataset_revision,
        metric_type=name.lower().replace(" ", "_"),
        metric_name=name,
        metric_value=None if math.isnan(value) else round(value, 2),
        metric_args=metric_args if evidence.command is None else {**metric_args, "command": evidence.command},
        source_name="detr evaluate" if evidence.source_url else None,
        source_url=evidence.source_url,
    )
