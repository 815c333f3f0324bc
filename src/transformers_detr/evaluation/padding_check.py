"""Effect of padding on predictions: each image alone compared with the same image in its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from transformers_detr.evaluation import Padding
from transformers_detr.evaluation.predict import PreparedBatch, prepare_batch, run_model
from transformers_detr.evaluation.predictions import EvaluationImage


@dataclass(frozen=True)
class PaddingDifference:
    """Largest differences between an image alone and in its batch.

    Attributes:
        images: Images compared.
        padded: Number of images that were padded in their batch.
        logits: Of a class logit.
        boxes: Of a box's coordinate, relative to the image.
    """

    images: int = 0
    padded: int = 0
    logits: float = 0.0
    boxes: float = 0.0


def padding_differences(
    model: PreTrainedModel,
    processor: Any,
    batches: Iterable[Sequence[EvaluationImage]],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[Padding, PaddingDifference]:
    """Measure the effect of exact padding and of the original's padding.

    Images that cannot be read are left out.

    Args:
        model: In evaluation mode; its backbone must allow exact padding if images of a batch differ in size.
        processor: Its image processor.
        batches: As `plan_batches` gives them.
        progress: Called with the number of images just compared.
    """
    found: dict[Padding, PaddingDifference] = {"exact": PaddingDifference(), "original": PaddingDifference()}
    prepare = partial(prepare_batch, processor=processor, num_channels=model.config.num_channels)
    for batch, errors in map(prepare, batches):
        if batch is not None:
            alone = [run_model(model, _single(batch, index), exact_padding=False) for index in range(len(batch.images))]
            for padding, so_far in found.items():
                found[padding] = _compared(model, batch, alone, padding, so_far)
        progress(len(errors) + (0 if batch is None else len(batch.images)))
    return found


def _single(batch: PreparedBatch, index: int) -> PreparedBatch:
    """Return one image of a batch, without padding."""
    height, width = batch.sizes[index]
    pixels = batch.pixel_values[index : index + 1, :, :height, :width]
    return PreparedBatch([batch.images[index]], pixels, [(height, width)])


def _compared(
    model: PreTrainedModel, batch: PreparedBatch, alone: Sequence[Any], padding: Padding, so_far: PaddingDifference
) -> PaddingDifference:
    together = run_model(model, batch, exact_padding=padding == "exact")
    logits = [(a.logits[0] - b).abs().max().item() for a, b in zip(alone, together.logits, strict=True)]
    boxes = [(a.pred_boxes[0] - b).abs().max().item() for a, b in zip(alone, together.pred_boxes, strict=True)]
    return PaddingDifference(
        images=so_far.images + len(batch.images),
        padded=so_far.padded + sum(batch.is_padded),
        logits=max(so_far.logits, *logits),
        boxes=max(so_far.boxes, *boxes),
    )
