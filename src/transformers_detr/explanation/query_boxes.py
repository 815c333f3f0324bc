"""Boxes that each query predicts over many images, and their chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError
from transformers_detr.inference.detector import Detector, Segmenter
from transformers_detr.inference.predictor import DEFAULT_BATCH_SIZE, ImageSource, Predictor, Prepared
from transformers_detr.inference.sources import gather_sources
from transformers_detr.model.modeling_detr import DetrForObjectDetection


class _BoxReader(Predictor[np.ndarray[Any, Any]]):
    """Predictor that returns the box of every query, `(Q, 4)`, cxcywh relative to the image."""

    model_class = DetrForObjectDetection
    default_model = Detector.default_model
    default_threshold = 0.0

    def _results(
        self, outputs: Any, batch: Sequence[Prepared], threshold: float, keep_images: bool
    ) -> list[np.ndarray[Any, Any]]:
        return list(outputs.pred_boxes.float().cpu().numpy())


def query_boxes(
    predictor: Detector | Segmenter,
    images: Iterable[ImageSource | Callable[[], bytes]],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    progress: Callable[[], None] = lambda: None,
) -> np.ndarray[Any, Any]:
    """Collect the boxes that every query predicts, also those classified as "no object", as the paper does.

    Args:
        predictor: Detector or segmenter to examine.
        images: Images as the predictor takes them, or functions that return their encoded bytes.
        batch_size: Largest number of images per batch.
        progress: Called after each image.

    Returns:
        `(N, Q, 4)` float32, cxcywh relative to the image.

    Raises:
        ValueError: There are no images, or one cannot be read.
        OSError: A file or URL cannot be read.
    """
    model: Any = predictor.model
    reader = _BoxReader(getattr(model, "detr", model), predictor.image_processor)
    boxes = []
    opened = (image() if callable(image) else image for image in images)
    for image_boxes in reader.stream(opened, batch_size=batch_size):
        boxes.append(image_boxes)
        progress()
    if not boxes:
        raise ValueError("images must hold at least one image")
    return np.stack(boxes)


def dataset_images(name: str, limit: int | None = None) -> Sequence[ImageSource | Callable[[], bytes]]:
    """List the images of a dataset or of a folder, for `query_boxes`.

    Args:
        name: Dataset, of which the validation split is taken if there is one; or a folder of images, with subfolders.
        limit: Return the first ones only.

    Raises:
        DatasetError: `name` is neither a dataset nor a folder.
        FileNotFoundError: The folder holds no images.
    """
    try:
        dataset = DetectionDataset.load(name, report=lambda *finding: None)
    except DatasetError:
        if not Path(name).is_dir():
            raise
        return [source.location for source in gather_sources([name], recursive=True)][:limit]
    records = dataset.splits.get("val") or next(iter(dataset.splits.values()))
    return [record.read_bytes or record.path for record in records[:limit]]


def draw_queries(boxes_cxcywh: np.ndarray[Any, Any], title: str = "", columns: int = 10) -> Image.Image:
    """Draw the box centers of each query, one unit square per query.

    Small boxes (below 5 % of the image) are green, wide ones vermilion, tall ones blue. Rows hold the queries in order.

    Args:
        boxes_cxcywh: `(N, Q, 4)`, relative to the image, as `query_boxes` returns them.
        title: First line.
        columns: Squares in a row.

    Returns:
        An RGB image.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from transformers_detr.explanation.query_figure import query_chart
    except ImportError as error:
        raise ImportError("draw_queries needs matplotlib: pip install matplotlib") from error
    return query_chart(boxes_cxcywh, title, columns)
