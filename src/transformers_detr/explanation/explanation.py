"""Why a picture's objects were found: the attention behind each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from transformers_detr.explanation.attention import picture_attention
from transformers_detr.explanation.attention_figure import explanation_sheet
from transformers_detr.inference.detections import Detections
from transformers_detr.inference.detector import Detector, Segmenter
from transformers_detr.inference.predictor import ImageSource
from transformers_detr.model.image_io_detr import load_image
from transformers_detr.model.postprocessing_detr import post_process_object_detection

MOST_OBJECTS = 12
FEWEST_OBJECTS = 3
"""So many queries are shown, the surest ones, where none scores above the threshold."""

MOST_POINTS = 4
EVERY_QUERY = -1.0

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """The objects of one picture and the attention behind them.

    Attributes:
        detections: N objects, the surest first, with their picture.
        queries: `(N,)`: the query of each.
        decoder: `(N, h, w)`: each query's attention over the cells of the picture; the sum is 1.
        points_xy: P points of the picture, (x, y) between 0 and 1.
        encoder: `(P, h, w)`: each point's self-attention over the cells; the sum is 1.
        threshold: Objects score above it, unless none did.
        found: How many objects scored above it, those included that are left out here.
    """

    detections: Detections
    queries: np.ndarray[Any, Any]
    decoder: np.ndarray[Any, Any]
    points_xy: Points
    encoder: np.ndarray[Any, Any]
    threshold: float
    found: int

    def draw(self, title: str = "") -> Image.Image:
        """Draw everything on one sheet."""
        return explanation_sheet(
            self.detections, self.queries, self.decoder, self.points_xy, self.encoder, title, self._summary()
        )

    def _summary(self) -> str:
        shown, above = len(self.detections), f"above {self.threshold:.2f}"
        if not self.found:
            return f"Nothing scores {above}; the {shown} surest queries are shown"
        objects = "1 object scores" if self.found == 1 else f"{self.found} objects score"
        return f"{objects} {above}" + (f"; the {shown} surest are shown" if self.found > shown else "")


def explain(
    predictor: Detector | Segmenter,
    image: ImageSource,
    *,
    threshold: float = Detector.default_threshold,
    points_xy: Sequence[tuple[float, float]] | None = None,
    most: int = MOST_OBJECTS,
    layer: int = -1,
    encoder_layer: int = -1,
) -> Explanation:
    """Find the objects of a picture, and what the model looked at for each.

    Args:
        predictor: With the model to explain.
        image: As the predictor takes it.
        threshold: Objects must score above it. If none does, the surest queries are explained.
        points_xy: Points, (x, y) between 0 and 1, whose self-attention in the encoder is wanted. If not given, the
            middles of the surest objects, each in another cell, four at most.
        most: At most so many objects, the surest.
        layer: Decoder layer; -1 is the last one.
        encoder_layer: Encoder layer likewise.

    Raises:
        ValueError: The picture cannot be read, or an argument is out of range.
        OSError: A file or URL cannot be read.
        TypeError: That is no picture.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    picture = load_image(image)
    model: Any = predictor.model.eval()
    inputs = predictor.image_processor(images=picture, do_pad=False, return_tensors="pt")
    seen = picture_attention(model, inputs["pixel_values"], layer)
    size = (picture.height, picture.width)
    outputs = SimpleNamespace(logits=seen.logits[None], pred_boxes=seen.pred_boxes[None])
    (every,) = post_process_object_detection(outputs, EVERY_QUERY, [size])
    order = every["scores"].argsort(descending=True, stable=True)
    found = int((every["scores"] > threshold).sum())
    queries = order[: min(found, most) if found else min(FEWEST_OBJECTS, most)]
    labels = every["labels"][queries].tolist()
    if points_xy is None:
        points_xy = _middles(seen.pred_boxes[queries, :2], (seen.decoder.shape[1], seen.decoder.shape[2]))
    return Explanation(
        detections=Detections(
            boxes_xyxy_px=every["boxes"][queries].numpy(),
            scores=every["scores"][queries].numpy(),
            labels=np.array(labels, dtype=np.int64),
            names=[model.config.id2label[label] for label in labels],
            image_size=size,
            image=picture,
        ),
        queries=queries.numpy(),
        decoder=seen.decoder[queries].numpy(),
        points_xy=tuple((float(x), float(y)) for x, y in points_xy),
        encoder=seen.from_points(points_xy, encoder_layer).numpy(),
        threshold=threshold,
        found=found,
    )


def _middles(centers_xy: torch.Tensor, shape: tuple[int, int]) -> Points:
    """The first centers that lie in different cells of a grid `(h, w)`."""
    points: dict[tuple[int, int], tuple[float, float]] = {}
    for x, y in centers_xy.clamp(0, 1).tolist():
        points.setdefault((int(y * shape[0]), int(x * shape[1])), (x, y))
    return tuple(points.values())[:MOST_POINTS]
