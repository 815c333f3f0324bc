"""Detector and Segmenter: from images to detections or segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.inference.detections import Detections
from transformers_detr.inference.predictor import Predictor, Prepared
from transformers_detr.inference.segments import Segments, renumber
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.mask_head_detr import CONFIDENT
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.postprocessing_segmentation_detr import (
    post_process_instance_segmentation,
    post_process_panoptic_paper,
    post_process_semantic_segmentation,
)

SegmentationTask = Literal["panoptic", "instance", "semantic"]
Part = tuple[int, int, float | None]
"""A value of a map, its class id, and its score if known."""

THRESHOLDS: dict[str, float] = {"panoptic": 0.85, "instance": 0.5, "semantic": 0.0}
"""Default threshold of each segmentation task; the semantic task has none."""


class Detector(Predictor[Detections]):
    """Detects objects in images; for arguments and calls see `Predictor`.

    At the threshold 0.7 few detections are wrong, at 0.5 more objects are found; 0 keeps every query.
    Detections are sorted by score.
    """

    model_class = DetrForObjectDetection
    default_model = "facebook/detr-resnet-50"
    default_threshold = 0.7

    def _results(
        self, outputs: Any, batch: Sequence[Prepared], threshold: float, keep_images: bool
    ) -> list[Detections]:
        sizes = [item.image_size for item in batch]
        found = self.image_processor.post_process_object_detection(outputs, threshold, sizes)
        return [self._detections(result, item, keep_images) for result, item in zip(found, batch, strict=True)]

    def _detections(self, result: Any, item: Prepared, keep_images: bool) -> Detections:
        class_ids, id2label = result["labels"].cpu().numpy(), self.model.config.id2label
        return Detections(
            boxes_xyxy_px=result["boxes"].cpu().numpy(),
            scores=result["scores"].cpu().numpy(),
            class_ids=class_ids,
            labels=[id2label[class_id] for class_id in class_ids.tolist()],
            image_size=item.image_size,
            image=item.image if keep_images else None,
            source=item.source,
            id2label=id2label,
        ).sort()


class Segmenter(Predictor[Segments]):
    """Divides images into segments; for arguments and calls see `Predictor`.

    - "panoptic": things, and of each class of stuff one segment, together over the whole image, by the
      paper's procedure, which the published panoptic quality was measured with; threshold 0.85.
    - "instance": things only, which do not overlap; threshold 0.5.
    - "semantic": a class for each pixel; a threshold has no effect.

    Which classes are stuff is taken from `label_ids_to_fuse` of the model's configuration. Masks are computed
    for those queries only that the threshold may let through.

    Args:
        model: Hub id, folder or loaded model, as for `Predictor`.
        image_processor: Image processor; required with a loaded model.
        task: "panoptic", "instance" or "semantic".
        **options: As for `Predictor.from_pretrained`: `device`, `dtype`, `backend`, `precision` and others.

    Raises:
        ValueError: There is no such task.
        TypeError: An argument is of the wrong type, or does not go with a loaded model.
        LoadingError: The model cannot be loaded; the message says why and what to do.
    """

    model_class = DetrForSegmentation
    default_model = "facebook/detr-resnet-50-panoptic"

    def __init__(
        self,
        model: str | Path | DetrForSegmentation | ExportedModel | None = None,
        image_processor: DetrImageProcessor | None = None,
        task: SegmentationTask = "panoptic",
        **options: Any,
    ):
        if task not in get_args(SegmentationTask):
            raise ValueError(f"task must be one of {', '.join(get_args(SegmentationTask))}, got {task!r}")
        super().__init__(model, image_processor, **options)
        self.task = task

    @property
    def default_threshold(self) -> float:
        """The threshold if none is given, by task."""
        return THRESHOLDS[self.task]

    def _model_options(self, threshold: float) -> dict[str, Any]:
        few = self.task != "semantic" and threshold > CONFIDENT
        return {"mask_queries": "confident" if few else "all"}

    def _results(self, outputs: Any, batch: Sequence[Prepared], threshold: float, keep_images: bool) -> list[Segments]:
        parts = self._parts(outputs, batch, threshold)
        return [self._segments(*result, item, keep_images) for result, item in zip(parts, batch, strict=True)]

    def _parts(self, outputs: Any, batch: Sequence[Prepared], threshold: float) -> list[tuple[Tensor, list[Part]]]:
        """Return a map `(H, W)` for each image, and the values in it that are segments."""
        stuff = self._stuff()
        sizes: Any = {
            "target_sizes": [item.image_size for item in batch],
            "processed_sizes": [item.shape for item in batch],
        }
        if self.task == "semantic":
            maps: list[Any] = post_process_semantic_segmentation(outputs, **sizes)
            return [(classes, [(label, label, None) for label in classes.unique().tolist()]) for classes in maps]
        if self.task == "instance":
            found = post_process_instance_segmentation(outputs, threshold, **sizes)
        else:
            found = post_process_panoptic_paper(outputs, threshold=threshold, label_ids_to_fuse=stuff, **sizes)
        return [
            (
                torch.as_tensor(result["segmentation"]),
                [
                    (info["id"], info["label_id"], info["score"])
                    for info in result["segments_info"]
                    if self.task == "panoptic" or info["label_id"] not in stuff
                ],
            )
            for result in found
        ]

    def _segments(self, values: Tensor, parts: list[Part], item: Prepared, keep_image: bool) -> Segments:
        stuff, names = self._stuff(), self.model.config.id2label
        return Segments(
            segmentation=renumber(values.cpu().numpy(), [value for value, _, _ in parts]),
            segments_info=[
                {"id": number, "label_id": label, "name": names[label], "score": score, "is_stuff": label in stuff}
                for number, (_, label, score) in enumerate(parts, 1)
            ],
            image=item.image if keep_image else None,
            source=item.source,
            id2label=names,
        )

    def _stuff(self) -> frozenset[int]:
        return frozenset(self.model.config.label_ids_to_fuse or ())
