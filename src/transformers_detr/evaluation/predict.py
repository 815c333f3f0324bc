"""Run a model over an image set for scoring: float boxes, every query, no threshold.

A batch is the unit of work. Batches are planned from the whole image set, so a run that was interrupted, or
that several processes share, computes the very same batches as one run in one process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from transformers_detr.evaluation.distributed import own_share
from transformers_detr.evaluation.predictions import EvaluationImage, ImagePrediction, to_record
from transformers_detr.inference.freed_memory import FREED_MEMORY
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.model.padding_detr import group_by_shape, pad_batch
from transformers_detr.model.postprocessing_detr import EVERY_QUERY, Detections, post_process_object_detection
from transformers_detr.prefetch import prefetch_map


@dataclass(frozen=True, eq=False)
class PreparedBatch:
    """Images ready for the model.

    Attributes:
        images: The B images, at least one.
        pixel_values: `(B, C, H, W)`, padded.
        sizes: (height, width) of each of them without padding.
        pixel_mask: `(B, H, W)`, 1 on real pixels; None if nothing is padded.
    """

    images: list[EvaluationImage]
    pixel_values: Tensor
    sizes: list[tuple[int, int]]
    pixel_mask: Tensor | None = None

    @property
    def is_padded(self) -> list[bool]:
        """True for each image that is padded."""
        canvas = (self.pixel_values.shape[2], self.pixel_values.shape[3])
        return [size != canvas for size in self.sizes]


def plan_batches(
    images: Iterable[EvaluationImage], batch_size: int, equal_sizes: bool = False
) -> list[list[EvaluationImage]]:
    """Group images of similar shape, to reduce padding.

    Args:
        images: All images of the set.
        batch_size: Maximum number of images in a batch.
        equal_sizes: Let only images of equal size share a batch, so that nothing is padded.
    """
    by_shape = sorted(images, key=lambda image: (image.width / image.height, image.height, image.id))
    shapes = {rank: (image.height, image.width) for rank, image in enumerate(by_shape)}
    # Sizes before resizing: images of one ratio become equally large, so only the ratio limits the padding.
    groups = group_by_shape(shapes, batch_size, 0.0 if equal_sizes else math.inf, by_ratio=True)
    return [[by_shape[rank] for rank in group] for group in groups]


def prepare_batch(
    images: Sequence[EvaluationImage], processor: Any, num_channels: int
) -> tuple[PreparedBatch | None, dict[int, str]]:
    """Read and preprocess the images of a batch for a model of `num_channels` channels.

    Returns:
        The images that can be read, or None if there are none; id and reason of those that cannot.
    """
    readable: list[EvaluationImage] = []
    pixels: list[Tensor] = []  # (C, h, w) each
    errors: dict[int, str] = {}
    for image in images:
        try:
            inputs = processor(images=image.load_pixels(num_channels), do_pad=False, return_tensors="pt")
        except (OSError, ValueError) as error:
            errors[image.id] = str(error)
            continue
        readable.append(image)
        pixels.append(inputs["pixel_values"][0])
    if not readable:
        return None, errors
    sizes = [(tensor.shape[1], tensor.shape[2]) for tensor in pixels]
    pixel_values, pixel_mask = pad_batch(pixels)
    return PreparedBatch(readable, pixel_values, sizes, pixel_mask), errors


def run_model(model: PreTrainedModel, batch: PreparedBatch, exact_padding: bool) -> Any:
    """Return the model's outputs for a batch."""
    with torch.inference_mode():
        return model(
            pixel_values=batch.pixel_values.to(model.device),
            pixel_mask=batch.pixel_mask,
            exact_padding=exact_padding and batch.pixel_mask is not None,
        )


def detections(outputs: Any, batch: PreparedBatch) -> list[ImagePrediction]:
    """Return the predictions of all queries of a detection model; category ids are class ids."""
    sizes = [(image.height, image.width) for image in batch.images]
    return read_outputs(outputs, [image.id for image in batch.images], sizes)


def read_outputs(outputs: Any, image_ids: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[ImagePrediction]:
    """Return the predictions of all queries in the outputs for a batch.

    Args:
        outputs: Has `logits (B, Q, C + 1)` and `pred_boxes (B, Q, 4)`.
        image_ids: B ids.
        sizes: (height, width) of each image in pixels of the ground truth.

    Returns:
        B predictions; one whose numbers are not all finite is an error.
    """
    finite = outputs.logits.isfinite().flatten(1).all(1) & outputs.pred_boxes.isfinite().flatten(1).all(1)
    found = post_process_object_detection(outputs, EVERY_QUERY, sizes)
    return [
        _prediction(image_id, result) if ok else ImagePrediction(image_id, error="the model's output is not finite")
        for image_id, result, ok in zip(image_ids, found, finite.tolist(), strict=True)
    ]


def predict(
    model: PreTrainedModel,
    processor: Any,
    batches: Iterable[Sequence[EvaluationImage]],
    exact_padding: bool = True,
    collect: Callable[[Any, PreparedBatch], list[ImagePrediction]] = detections,
) -> Iterator[list[ImagePrediction]]:
    """Predict batch after batch; images are read in threads while the model runs.

    Args:
        model: In evaluation mode, on its device.
        processor: Its image processor.
        batches: As `plan_batches` gives them.
        exact_padding: Keep padding from reaching the image; False gives the original's numbers.
        collect: Outputs and batch → one prediction per image of it.

    Yields:
        The predictions of each batch: one per image, those that cannot be read with their error.
    """
    threads = min(4, os.cpu_count() or 1)
    prepare = partial(prepare_batch, processor=processor, num_channels=model.config.num_channels)
    prepared = prefetch_map(prepare, batches, depth=2, threads=threads)
    for batch, errors in prepared:
        predictions = [ImagePrediction(image_id, error=error) for image_id, error in errors.items()]
        if batch is not None:
            predictions += collect(run_model(model, batch, exact_padding), batch)
            FREED_MEMORY.return_it()
        yield predictions


def predict_to_file(
    writer: PredictionWriter,
    class_names: Mapping[int, str],
    batches: Sequence[Sequence[EvaluationImage]],
    predict_batches: Callable[[Iterable[Sequence[EvaluationImage]]], Iterator[list[ImagePrediction]]],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Predict the images that the file does not have yet; with several processes, each takes its share of the batches.

    Args:
        writer: Writer of the file.
        class_names: Class names by class id.
        batches: Of the whole image set, the same in every process.
        predict_batches: `predict` with all but the batches filled in.
        progress: Called with the number of images that this process has just finished, first with those that
            the file holds.
    """
    own = own_share(batches)
    left = [batch for batch in own if not all(image.id in writer.done for image in batch)]
    progress(sum(map(len, own)) - sum(map(len, left)))
    images = {image.id: image for batch in left for image in batch}
    for predictions in predict_batches(left):
        writer.append(*(to_record(found, images[found.image_id], class_names) for found in predictions))
        progress(len(predictions))
    writer.finish([image.id for image in sorted((i for batch in batches for i in batch), key=lambda i: i.id)])


def _prediction(image_id: int, found: Detections) -> ImagePrediction:
    """Convert the detections of one image from xyxy boxes to COCO's x, y, width, height."""
    tensors = (found["scores"], found["labels"], found["boxes"])
    scores, labels, boxes = (tensor.double().cpu().numpy() for tensor in tensors)
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return ImagePrediction(image_id, scores, labels.astype(np.int64), boxes_xywh)
