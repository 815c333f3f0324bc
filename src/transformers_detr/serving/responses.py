"""Responses in the formats of the Hub's inference API."""

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
from transformers_detr.model.postprocessing_detr import EVERY_QUERY, post_process_object_detection
from transformers_detr.visualization.palette import class_color

_PNG_COMPRESS_LEVEL = 1
"""Fastest level: masks are nearly as small, and encoding must not take longer than inference."""


def filter_by_score(detections: Detections, threshold: float) -> Detections:
    """Return the detections that score above a threshold."""
    kept = detections.scores > threshold
    names = [name for name, keep in zip(detections.labels, kept.tolist(), strict=True) if keep]
    return replace(
        detections,
        boxes_xyxy_px=detections.boxes_xyxy_px[kept],
        scores=detections.scores[kept],
        class_ids=detections.class_ids[kept],
        labels=names,
    )


def detection_response(detections: Detections, details: bool) -> list[dict[str, Any]]:
    """Return the object-detection format, in whole pixels like the API and the pipeline.

    Args:
        detections: Detections of one image.
        details: Add the class id and the color of the class in annotated images.
    """
    return _detailed(detections.to_dict(integer_pixels=True), detections.class_ids.tolist(), details)


def segmentation_response(segments: Segments, details: bool) -> list[dict[str, Any]]:
    """Return the image-segmentation format: `score`, `label`, and `mask`, a base64-encoded PNG, 255 in the segment.

    Args:
        segments: Segments of one image.
        details: As for `detection_response`.
    """
    entries = [
        {"score": info["score"], "label": info["name"], "mask": _png(segments.segmentation == info["id"])}
        for info in segments.segments_info
    ]
    return _detailed(entries, [info["label_id"] for info in segments.segments_info], details)


def attention_response(
    image_attention: ImageAttention, image_size: tuple[int, int], id2label: dict[int, str], threshold: float
) -> dict[str, Any]:
    """Return the attention maps of the queries that score above the threshold.

    Args:
        image_attention: Predictions and attention of all queries.
        image_size: (height, width) of the image.
        id2label: Class names by id.
        threshold: Minimum score.

    Returns:
        `width` and `height` of the maps, and per query `score`, `label`, `box`, and `attention`: one byte per
        cell, row by row, 255 for the maximum, base64-encoded.
    """
    outputs = SimpleNamespace(logits=image_attention.logits[None], pred_boxes=image_attention.pred_boxes[None])
    (found,) = post_process_object_detection(outputs, EVERY_QUERY, [image_size])
    detections = Detections(
        boxes_xyxy_px=found["boxes"].numpy(),
        scores=found["scores"].numpy(),
        class_ids=found["labels"].numpy(),
        labels=[id2label[label] for label in found["labels"].tolist()],
        image_size=image_size,
    )
    height, width = image_attention.decoder_attention.shape[1:]
    entries = detection_response(detections, details=False)
    return {
        "width": width,
        "height": height,
        "queries": [
            {**entry, "attention": _encode_map(attention)}
            for entry, attention in zip(entries, image_attention.decoder_attention.numpy(), strict=True)
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
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(file, "PNG", compress_level=_PNG_COMPRESS_LEVEL)
    return base64.b64encode(file.getvalue()).decode()


def _encode_map(values: np.ndarray[Any, Any]) -> str:
    scaled = np.rint(values * (255 / max(float(values.max()), 1e-12)))
    return base64.b64encode(scaled.astype(np.uint8).tobytes()).decode()
