"""COCO's numbers for the evaluation loop of `transformers.Trainer`, without keeping its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.coco_types import CocoDataset
from transformers_detr.evaluation.distributed import gather_predictions
from transformers_detr.evaluation.predict import read_outputs
from transformers_detr.evaluation.predictions import ImagePrediction


class DetectionMetrics:
    """A `compute_metrics` for `transformers.Trainer`, with `batch_eval_metrics=True` in its arguments.

    Each batch becomes detections at once. The ground truth is the dataset's own, with its crowds, which
    training targets lack.

    Args:
        ground_truth: Images, objects, categories; category ids are class ids of the model.
        max_detections: See `score_detections`.
    """

    def __init__(self, ground_truth: CocoDataset, max_detections: int = 100):
        self.ground_truth = ground_truth
        self.max_detections = max_detections
        self._predictions: dict[int, ImagePrediction] = {}

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch; with `compute_result`, return COCO's twelve numbers and reset.

        Args:
            prediction: `predictions` hold the model's outputs, the first two three-dimensional ones of which are
                logits and boxes; `label_ids` the batch's targets.
            compute_result: Whether this is the last batch.
        """
        outputs = [torch.as_tensor(item) for item in prediction.predictions if getattr(item, "ndim", 0) == 3]
        labels = prediction.label_ids
        while len(labels) == 1 and not isinstance(labels[0], Mapping):
            labels = labels[0]  # the Trainer wraps them in a tuple
        self.add(outputs[0], outputs[1], labels)
        return self.compute() if compute_result else {}

    def add(self, logits: Tensor, pred_boxes: Tensor, labels: Sequence[Mapping[str, Any]]) -> None:
        """Take in a batch.

        Args:
            logits: `(B, Q, C + 1)`.
            pred_boxes: `(B, Q, 4)`, as the model gives them.
            labels: The targets; their `image_id` and `orig_size` are used.
        """
        outputs = SimpleNamespace(logits=logits, pred_boxes=pred_boxes)
        ids = [int(label["image_id"]) for label in labels]
        sizes = [(int(label["orig_size"][0]), int(label["orig_size"][1])) for label in labels]
        self._predictions |= dict(zip(ids, read_outputs(outputs, ids, sizes), strict=True))

    def compute(self) -> dict[str, float]:
        """Return COCO's twelve numbers over all images of all processes, and reset."""
        predictions = gather_predictions(self._predictions.values())
        self._predictions = {}
        return score_detections(self.ground_truth, predictions, max_detections=self.max_detections).summary
