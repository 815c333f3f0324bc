"""Where each query finds its objects, over many pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from transformers_detr.inference.detector import Detector, Segmenter
from transformers_detr.inference.predictor import DEFAULT_BATCH_SIZE, ImageSource, Predictor, Prepared
from transformers_detr.model.modeling_detr import DetrForObjectDetection


class _BoxReader(Predictor[np.ndarray[Any, Any]]):
    """Gives every query's box, `(Q, 4)` as (cx, cy, w, h) relative to the picture."""

    model_class = DetrForObjectDetection
    default_model = Detector.default_model
    default_threshold = 0.0

    def _results(
        self, outputs: Any, batch: Sequence[Prepared], threshold: float, keep_images: bool
    ) -> list[np.ndarray[Any, Any]]:
        return list(outputs.pred_boxes.float().cpu().numpy())


def query_boxes(
    predictor: Detector | Segmenter,
    images: Iterable[ImageSource],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    progress: Callable[[], None] = lambda: None,
) -> np.ndarray[Any, Any]:
    """Collect the boxes that every query predicts, those for "no object" too, as the paper does.

    Args:
        predictor: With the model.
        images: The pictures.
        batch_size: At most so many go through the model at once.
        progress: Called after each picture.

    Returns:
        `(N, Q, 4)` float32: of N pictures, (cx, cy, w, h) relative to the picture.

    Raises:
        ValueError: There are no pictures, or one cannot be read.
        OSError: A file or URL cannot be read.
    """
    model: Any = predictor.model
    reader = _BoxReader(getattr(model, "detr", model), predictor.image_processor)
    boxes = []
    for picture_boxes in reader.stream(images, batch_size=batch_size):
        boxes.append(picture_boxes)
        progress()
    if not boxes:
        raise ValueError("images must hold at least one picture")
    return np.stack(boxes)


def draw_queries(boxes_cxcywh: np.ndarray[Any, Any], title: str = "", columns: int = 10) -> Image.Image:
    """Draw the middles of the boxes of each query, one square of the picture's width and height for each.

    Small boxes are green, wide ones vermilion, tall ones blue (small: less than a twentieth of the picture). The
    queries' squares come in their order, row by row.

    Args:
        boxes_cxcywh: `(N, Q, 4)`, relative to the picture, as `query_boxes` returns them.
        title: First line.
        columns: Squares in a row.

    Returns:
        An RGB picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from transformers_detr.explanation.query_figure import query_chart
    except ImportError as error:
        raise ImportError("draw_queries needs matplotlib: pip install 'transformers-detr[evaluate]'") from error
    return query_chart(boxes_cxcywh, title, columns)
