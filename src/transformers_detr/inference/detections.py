"""Detections: the objects found in one image, and their conversions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, overload

import numpy as np
from PIL import Image

from transformers_detr.inference.results import ImageResult, positions
from transformers_detr.visualization.annotate import draw_boxes


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object found in an image.

    Attributes:
        label: Class name.
        class_id: Class id.
        score: Between 0 and 1.
        box_xyxy_px: Left, top, right, bottom in pixels of the upright image.
    """

    label: str
    class_id: int
    score: float
    box_xyxy_px: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detections(ImageResult):
    """The N objects found in one image.

    The detector sorts them by score, the highest first; objects of equal score keep the order of the model's queries.
    `detections[0]` and iteration give each a `Detection`. A slice, a boolean mask or an array of integers selects
    objects and gives `Detections`.

    Attributes:
        boxes_xyxy_px: `(N, 4)` float32: left, top, right, bottom in pixels of the upright image. Neither
            rounded nor clipped at its edges; see `clip`.
        scores: `(N,)` float32, between 0 and 1.
        class_ids: `(N,)` int64.
        labels: N class names.
        image_size: (height, width) of the upright image in pixels.
        image: Upright RGB image, kept with `keep_images=True`.
        source: Path, URL, bytes, image, array or tensor that the detector was given. It is not copied: `draw`, `save`
            and notebooks open it again.
        id2label: Class names of the model by class id, if known.
    """

    boxes_xyxy_px: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]
    class_ids: np.ndarray[Any, Any]
    labels: list[str]
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray[Any, Any] | Sequence[int] | Sequence[bool]) -> Self: ...

    def __getitem__(self, key: Any) -> Detection | Self:
        """Return one object for an integer, or `Detections` for a slice, a boolean mask or a sequence of integers."""
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            left, top, right, bottom = self.boxes_xyxy_px[key].tolist()
            return Detection(
                label=self.labels[key],
                class_id=int(self.class_ids[key]),
                score=float(self.scores[key]),
                box_xyxy_px=(left, top, right, bottom),
            )
        kept = positions(key, len(self))
        return replace(
            self,
            boxes_xyxy_px=self.boxes_xyxy_px[kept],
            scores=self.scores[kept],
            class_ids=self.class_ids[kept],
            labels=[self.labels[index] for index in kept],
        )

    def filter(self, classes: str | int | Iterable[str | int] | None = None, min_score: float | None = None) -> Self:
        """Return the objects of some classes, or from some score on.

        Args:
            classes: Class name or id, or several of them.
            min_score: Lowest score to keep.

        Raises:
            ValueError: The model has no such class.
            TypeError: A class is neither a name nor an id.
        """
        kept = np.ones(len(self), dtype=bool)
        if classes is not None:
            kept &= self._mask_of_classes(classes)
        if min_score is not None:
            kept &= self.scores >= min_score
        return self[kept]

    def sort(self) -> Self:
        """Return the objects sorted by score, the highest first; equal scores keep their order."""
        return self[np.argsort(-self.scores, kind="stable")]

    def clip(self) -> Self:
        """Return the objects with boxes clipped at the edges of the image."""
        height, width = self.image_size
        limits = np.array([width, height, width, height], dtype=self.boxes_xyxy_px.dtype)
        return replace(self, boxes_xyxy_px=np.clip(self.boxes_xyxy_px, 0, limits))

    def _size(self) -> tuple[int, int]:
        return self.image_size

    def _classes(self) -> tuple[list[int], list[str]]:
        return self.class_ids.tolist(), self.labels

    def _draw_on(self, image: Image.Image) -> Image.Image:
        """Draw the boxes, the highest score on top."""
        ordered = self.sort()
        captions = [f"{found.label} {found.score:.2f}" for found in ordered]
        return draw_boxes(image, ordered.boxes_xyxy_px, captions, ordered.class_ids.tolist())

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
            image_id: Id of the image in the annotations.

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
            raise ImportError("to_supervision needs supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy_px,
            confidence=self.scores,
            class_id=self.class_ids,
            data={"class_name": np.array(self.labels, dtype=str)},
        )

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row per object, and the columns of the command line's CSV table.

        These are `label` (the name), `class_id`, `score`, `xmin`, `ymin`, `xmax` and `ymax` in pixels.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), self.boxes_xyxy_px.T, strict=True))
        return pandas.DataFrame({"label": self.labels, "class_id": self.class_ids, "score": self.scores, **corners})

    def to_fiftyone(self) -> list[dict[str, Any]]:
        """Return keyword arguments for FiftyOne's `Detection`, one dictionary per object.

        `fo.Detections(detections=[fo.Detection(**entry) for entry in found.to_fiftyone()])` is the field of a sample.

        Returns:
            Per object `{"label", "bounding_box": [left, top, width, height], "confidence"}`, relative to the image.
        """
        height, width = self.image_size
        boxes = self.boxes_xyxy_px.astype(np.float64) / (width, height, width, height)
        return [
            {"label": name, "bounding_box": [left, top, right - left, bottom - top], "confidence": score}
            for name, (left, top, right, bottom), score in zip(
                self.labels, boxes.tolist(), self.scores.tolist(), strict=True
            )
        ]
