"""Detections of one image and the attention of their queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from transformers_detr.atomic_io import atomic_file
from transformers_detr.explanation.attention import image_attention
from transformers_detr.explanation.attention_figure import draw_explanation
from transformers_detr.hub.loading import holds_segmentation
from transformers_detr.inference.detections import Detections
from transformers_detr.inference.detector import Detector, Segmenter
from transformers_detr.inference.predictor import ImageSource
from transformers_detr.model.image_io_detr import load_pixels
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.postprocessing_detr import EVERY_QUERY, post_process_object_detection

MAX_OBJECTS = 12
FALLBACK_OBJECTS = 3
"""Number of queries to explain if no score is above the threshold."""

MAX_POINTS = 4

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Detections of one image and the attention behind them.

    Attributes:
        detections: N objects with their image, sorted by score.
        queries: `(N,)`, index of the query of each object.
        decoder_attention: `(N, h, w)` float32, cross-attention of each query over the cells. Each map sums to 1.
        points_xy: P points of the image, (x, y) between 0 and 1.
        encoder_attention: `(P, h, w)` float32, self-attention of each point over the cells. Each map sums to 1.
        threshold: Minimum score that was asked for.
        num_above_threshold: Number of objects that score above the threshold, also those left out by `max_objects`.
    """

    detections: Detections
    queries: np.ndarray[Any, Any]
    decoder_attention: np.ndarray[Any, Any]
    points_xy: Points
    encoder_attention: np.ndarray[Any, Any]
    threshold: float
    num_above_threshold: int

    def draw(self, title: str = "") -> Image.Image:
        """Draw detections and attention in one figure.

        Args:
            title: First line of the figure.
        """
        return draw_explanation(
            self.detections,
            self.queries,
            self.decoder_attention,
            self.points_xy,
            self.encoder_attention,
            title,
            self._summary(),
        )

    def save(self, path: str | Path, title: str = "") -> None:
        """Write the figure of `draw` to a file, atomically.

        Args:
            path: Image file; its suffix selects the format. Missing folders are created.
            title: First line of the figure; the file's name if empty.

        Raises:
            ValueError: The suffix is not that of an image format.
            OSError: The file cannot be written.
        """
        with atomic_file(Path(path)) as partial:
            self.draw(title or Path(path).name).save(partial, quality=92)

    def __repr__(self) -> str:
        h, w = self.decoder_attention.shape[1:]
        return f"Explanation({self._summary()}, {len(self.points_xy)} point(s), attention maps {h}x{w})"

    def _summary(self) -> str:
        shown, above = len(self.detections), f"above {self.threshold:.2f}"
        if not self.num_above_threshold:
            return f"no objects {above}; showing the top {shown} queries"
        noun = "object" if self.num_above_threshold == 1 else "objects"
        rest = f"; showing the top {shown}" if self.num_above_threshold > shown else ""
        return f"{self.num_above_threshold} {noun} {above}{rest}"


def explain(
    model: Detector | Segmenter | str | Path,
    image: ImageSource,
    *,
    threshold: float = Detector.default_threshold,
    points_xy: Sequence[tuple[float, float]] | None = None,
    max_objects: int = MAX_OBJECTS,
    layer: int = -1,
    encoder_layer: int = -1,
) -> Explanation:
    """Detect the objects of an image and return the attention behind each.

    Args:
        model: Detector or segmenter; or the name on the Hub or folder of one, which is then loaded.
        image: Path, URL, PIL image or array, as the detector takes it.
        threshold: Minimum score. If no object scores above it, the queries with the highest scores are explained.
        points_xy: Points (x, y), between 0 and 1, whose self-attention in the encoder is returned. By default the
            centers of the objects with the highest scores, in different cells, at most four.
        max_objects: Largest number of objects to return, those with the highest scores.
        layer: Decoder layer; -1 is the last one.
        encoder_layer: Encoder layer; -1 is the last one.

    Returns:
        Detections sorted by score, and their attention maps.

    Raises:
        ValueError: The image cannot be read, or an argument is out of range.
        OSError: A file or URL cannot be read, or the model cannot be loaded.
        TypeError: `image` is not an image, or `model` is an exported graph, which has no attention maps.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    if max_objects < 1:
        raise ValueError(f"max_objects must be at least 1, got {max_objects}")
    predictor = _load(model) if isinstance(model, str | Path) else model
    detr: Any = predictor.model
    if not isinstance(detr, DetrForObjectDetection | DetrForSegmentation):
        raise TypeError("model must be PyTorch weights: exported graphs have no attention maps")
    prepared = predictor.prepare(load_pixels(image, predictor.num_channels), keep_image=True)
    attention = image_attention(detr.eval(), prepared.pixel_values[None], layer)
    size = prepared.image_size
    outputs = SimpleNamespace(logits=attention.logits[None], pred_boxes=attention.pred_boxes[None])
    (every,) = post_process_object_detection(outputs, EVERY_QUERY, [size])
    order = every["scores"].argsort(descending=True, stable=True)
    count = int((every["scores"] > threshold).sum())
    queries = order[: min(count or FALLBACK_OBJECTS, max_objects)]
    class_ids = every["labels"][queries].tolist()
    if points_xy is None:
        h, w = attention.decoder_attention.shape[1:]
        points_xy = _centers(attention.pred_boxes[queries, :2], (h, w))
    return Explanation(
        detections=Detections(
            boxes_xyxy_px=every["boxes"][queries].numpy(),
            scores=every["scores"][queries].numpy(),
            class_ids=np.array(class_ids, dtype=np.int64),
            labels=[detr.config.id2label[class_id] for class_id in class_ids],
            image_size=size,
            image=prepared.image,
        ),
        queries=queries.numpy(),
        decoder_attention=attention.decoder_attention[queries].numpy(),
        points_xy=tuple((float(x), float(y)) for x, y in points_xy),
        encoder_attention=attention.encoder_attention(points_xy, encoder_layer).numpy(),
        threshold=threshold,
        num_above_threshold=count,
    )


def _load(name: str | Path) -> Detector | Segmenter:
    return Segmenter.from_pretrained(name) if holds_segmentation(name) else Detector.from_pretrained(name)


def _centers(centers_xy: torch.Tensor, shape: tuple[int, int]) -> Points:
    """Return the first centers that lie in different cells of a grid `(h, w)`."""
    points: dict[tuple[int, int], tuple[float, float]] = {}
    for x, y in centers_xy.clamp(0, 1).tolist():
        points.setdefault((int(y * shape[0]), int(x * shape[1])), (x, y))
    return tuple(points.values())[:MAX_POINTS]
