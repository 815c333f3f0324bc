"""Results in the forms in which the Hub's inference API gives them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from transformers_detr.explanation.attention import ImageAttention
from transformers_detr.inference.detections import Detections
from transformers_detr.inference.segments import Segments
from transformers_detr.model.postprocessing_detr import post_process_object_detection
from transformers_detr.visualization.annotate import class_color

_EVERY_QUERY = -1.0
_QUICK = (
    1  # the least of PNG's effort: masks are nearly as small, and encoding them should not take longer than finding
)


def above(found: Detections, threshold: float) -> Detections:
    """Return the detections that score above a threshold."""
    kept = found.scores > threshold
    names = [name for name, keep in zip(found.names, kept.tolist(), strict=True) if keep]
    return replace(
        found,
        boxes_xyxy_px=found.boxes_xyxy_px[kept],
        scores=found.scores[kept],
        labels=found.labels[kept],
        names=names,
    )


def detections_answer(found: Detections, details: bool) -> list[dict[str, Any]]:
    """Return the object-detection form, in whole pixels as the API and the pipeline give them.

    Args:
        found: The detections of a picture.
        details: Whether to add the class id, and the color that drawings give the class.
    """
    return _detailed(found.to_dict(integer_pixels=True), found.labels.tolist(), details)


def segments_answer(found: Segments, details: bool) -> list[dict[str, Any]]:
    """Return the image-segmentation form: `score`, `label`, and `mask`, a PNG as base64, 255 in the segment.

    Args:
        found: The segments of a picture.
        details: As of `detections_answer`.
    """
    entries = [
        {"score": info["score"], "label": info["name"], "mask": _png(found.segmentation == info["id"])}
        for info in found.segments_info
    ]
    return _detailed(entries, [info["label_id"] for info in found.segments_info], details)


def attention_answer(
    seen: ImageAttention, image_size: tuple[int, int], names: dict[int, str], threshold: float
) -> dict[str, Any]:
    """Return where the queries looked that found something.

    Args:
        seen: What each query found, and where it looked.
        image_size: (height, width) of the picture.
        names: Class names by id.
        threshold: What a query found must score above it.

    Returns:
        `width` and `height` of the maps, and per query `score`, `label`, `box`, and `attention`: a byte for each
        cell, row by row, 255 for the largest value, as base64.
    """
    outputs = SimpleNamespace(logits=seen.logits[None], pred_boxes=seen.pred_boxes[None])
    (found,) = post_process_object_detection(outputs, _EVERY_QUERY, [image_size])
    detections = Detections(
        boxes_xyxy_px=found["boxes"].numpy(),
        scores=found["scores"].numpy(),
        labels=found["labels"].numpy(),
        names=[names[label] for label in found["labels"].tolist()],
        image_size=image_size,
    )
    height, width = seen.decoder_attention.shape[1:]
    entries = detections_answer(detections, details=False)
    return {
        "width": width,
        "height": height,
        "queries": [
            {**entry, "attention": _gray(attention)}
            for entry, attention in zip(entries, seen.decoder_attention.numpy(), strict=True)
            if entry["score"] > threshold
        ],
    }


def _detailed(entries: list[dict[str, Any]], labels: Sequence[int], details: bool) -> list[dict[str, Any]]:
    if not details:
        return entries
    return [
        {**entry, "class_id": label, "color": "#{:02x}{:02x}{:02x}".format(*class_color(label))}
        for entry, label in zip(entries, labels, strict=True)
    ]


def _png(mask: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(file, "PNG", compress_level=_QUICK)
    return base64.b64encode(file.getvalue()).decode()


def _gray(values: np.ndarray[Any, Any]) -> str:
    scaled = np.rint(values * (255 / max(float(values.max()), 1e-12)))
    return base64.b64encode(scaled.astype(np.uint8).tobytes()).decode()
