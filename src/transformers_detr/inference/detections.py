"""Detections: what was found in one picture, and its forms for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from transformers_detr.visualization.annotate import draw_boxes, upright_picture


@dataclass(frozen=True, eq=False, kw_only=True)
class Detections:
    """The N objects found in one picture.

    Attributes:
        boxes_xyxy_px: `(N, 4)` float32: left, top, right, bottom in pixels of the upright picture. Neither
            rounded nor cut at its edges.
        scores: `(N,)` float32, between 0 and 1.
        class_ids: `(N,)` int64.
        labels: N class names.
        image_size: (height, width) of the upright picture in pixels.
        image: The upright RGB picture, where it was asked for.
    """

    boxes_xyxy_px: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    class_ids: np.ndarray[Any, Any]
    labels: list[str]
    image_size: tuple[int, int]
    image: Image.Image | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def to_dict(self, integer_pixels: bool = False) -> list[dict[str, Any]]:
        """Return the form of the Hub's inference API and of transformers' pipeline.

        Args:
            integer_pixels: Drop the fractions of the pixels, as the API and the pipeline do. That moves boxes
                enough to cost average precision.

        Returns:
            Per object `{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}`; the label is the name.
        """
        boxes = self.boxes_xyxy_px.astype(np.int64) if integer_pixels else self.boxes_xyxy_px
        corners = ("xmin", "ymin", "xmax", "ymax")
        return [
            {"score": score, "label": name, "box": dict(zip(corners, box, strict=True))}
            for score, name, box in zip(self.scores.tolist(), self.labels, boxes.tolist(), strict=True)
        ]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return entries of a COCO results file.

        Args:
            image_id: The id of the picture in the annotations.

        Returns:
            Per object `{"image_id", "category_id", "bbox": [left, top, width, height], "score"}`, in pixels.
        """
        return [
            {
                "image_id": image_id,
                "category_id": label,
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
            }
            for label, (left, top, right, bottom), score in zip(
                self.class_ids.tolist(), self.boxes_xyxy_px.tolist(), self.scores.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`, with the names as its data field `class_name`.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "to_supervision needs supervision: pip install 'transformers-detr[supervision]'"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy_px,
            confidence=self.scores,
            class_id=self.class_ids,
            data={"class_name": np.array(self.labels, dtype=str)},
        )

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row per object, and the columns of the command line's CSV table.

        These are `label` (the name), `category_id`, `score`, `xmin`, `ymin`, `xmax` and `ymax` in pixels.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'transformers-detr[pandas]'") from error
        corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), self.boxes_xyxy_px.T, strict=True))
        return pandas.DataFrame({"label": self.labels, "category_id": self.class_ids, "score": self.scores, **corners})

    def to_fiftyone(self) -> list[dict[str, Any]]:
        """Return what FiftyOne's `Detection` takes as keywords, one dictionary per object.

        `fo.Detections(detections=[fo.Detection(**entry) for entry in found.to_fiftyone()])` is the field of a sample.

        Returns:
            Per object `{"label", "bounding_box": [left, top, width, height], "confidence"}`, relative to the picture.
        """
        height, width = self.image_size
        boxes = self.boxes_xyxy_px.astype(np.float64) / (width, height, width, height)
        return [
            {"label": name, "bounding_box": [left, top, right - left, bottom - top], "confidence": score}
            for name, (left, top, right, bottom), score in zip(
                self.labels, boxes.tolist(), self.scores.tolist(), strict=True
            )
        ]

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """Draw the boxes with names and scores on a copy of the picture, the highest score on top.

        Args:
            image: The upright picture. If not given, the one that was kept.

        Returns:
            An RGB picture of the same size.

        Raises:
            ValueError: No picture was given or kept, or its size is another.
        """
        picture = upright_picture(image, self.image, self.image_size)
        order = np.argsort(-self.scores, kind="stable")
        captions = [f"{self.labels[index]} {self.scores[index]:.2f}" for index in order]
        return draw_boxes(picture, self.boxes_xyxy_px[order], captions, self.class_ids[order].tolist())
