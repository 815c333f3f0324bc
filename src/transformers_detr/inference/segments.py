"""Segments: the segments of one image, and their conversions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, overload

import numpy as np
from PIL import Image

from transformers_detr.inference.results import ImageResult, positions
from transformers_detr.model.coco_masks_detr import encode_rle
from transformers_detr.model.postprocessing_segmentation_detr import NO_SEGMENT, segments_to_coco
from transformers_detr.visualization.annotate import draw_segments


@dataclass(frozen=True, eq=False, kw_only=True)
class Segment:
    """One segment of an image.

    Attributes:
        label: Class name.
        class_id: Class id.
        score: Between 0 and 1; None in semantic segmentation.
        mask: `(H, W)` bool: True in the segment.
        is_stuff: Whether the class is stuff, such as sky, and not countable things.
    """

    label: str
    class_id: int
    score: float | None
    mask: np.ndarray[Any, Any]
    is_stuff: bool


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Segments(ImageResult):
    """The N segments of one image; they do not overlap.

    `segments[0]` and iteration give each a `Segment`. A slice, a boolean mask or an array of integers selects segments
    and gives `Segments`, in which the pixels of the others have no segment.

    Attributes:
        segmentation: `(H, W)` int32: the id of each pixel's segment; 0 where there is none.
        segments_info: Per segment `id`, `label_id`, `name`, `score` between 0 and 1 (None in semantic
            segmentation, where no single query stands for a class) and `is_stuff`.
        image: Upright RGB image, kept with `keep_images=True`.
        source: Path, URL, bytes, image, array or tensor that the segmenter was given. It is not copied: `draw`, `save`
            and notebooks open it again.
        id2label: Class names of the model by class id, if known.
    """

    segmentation: np.ndarray[Any, Any]
    segments_info: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.segments_info)

    def __iter__(self) -> Iterator[Segment]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Segment: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray[Any, Any] | Sequence[int] | Sequence[bool]) -> Self: ...

    def __getitem__(self, key: Any) -> Segment | Self:
        """Return one segment for an integer, or `Segments` for a slice, a boolean mask or a sequence of integers."""
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            info = self.segments_info[key]
            return Segment(
                label=info["name"],
                class_id=info["label_id"],
                score=info["score"],
                mask=self.segmentation == info["id"],
                is_stuff=info["is_stuff"],
            )
        kept = [self.segments_info[index] for index in positions(key, len(self))]
        inside = np.isin(self.segmentation, [info["id"] for info in kept])
        segmentation = np.where(inside, self.segmentation, NO_SEGMENT).astype(self.segmentation.dtype)
        return replace(self, segmentation=segmentation, segments_info=kept)

    def filter(self, classes: str | int | Iterable[str | int] | None = None, min_score: float | None = None) -> Self:
        """Return the segments of some classes, or from some score on.

        Args:
            classes: Class name or id, or several of them.
            min_score: Lowest score to keep. Segments without a score are kept.

        Raises:
            ValueError: The model has no such class.
            TypeError: A class is neither a name nor an id.
        """
        kept = np.ones(len(self), dtype=bool)
        if classes is not None:
            kept &= self._mask_of_classes(classes)
        if min_score is not None:
            scores = [info["score"] for info in self.segments_info]
            kept &= np.array([score is None or score >= min_score for score in scores], dtype=bool)
        return self[kept]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the upright image in pixels."""
        height, width = self.segmentation.shape
        return height, width

    def class_map(self, nothing: int = 0) -> np.ndarray[Any, Any]:
        """Return the class of each pixel.

        Args:
            nothing: Value of pixels without a segment.

        Returns:
            `(H, W)`, uint8 if all class ids fit, else uint16.
        """
        class_of = np.full(max([NO_SEGMENT, *(info["id"] for info in self.segments_info)]) + 1, nothing)
        for info in self.segments_info:
            class_of[info["id"]] = info["label_id"]
        return class_of.astype(np.uint8 if class_of.max() < 256 else np.uint16)[self.segmentation]

    def to_coco_panoptic(self, image_id: int, file_name: str) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        """Return the segments in COCO's panoptic format.

        Args:
            image_id: Id of the image in the annotations.
            file_name: File name of the PNG with the segment ids.

        Returns:
            The image of segment ids, `(H, W, 3)` uint8, and the entry of `annotations`, with `image_id`, `file_name`
            and `segments_info` (`id`, `category_id`, `area`, `bbox`, `iscrowd`).
        """
        segments: Any = {"segmentation": self.segmentation, "segments_info": self.segments_info}
        return segments_to_coco(segments, image_id, file_name)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return entries of a COCO results file.

        Args:
            image_id: Id of the image in the annotations.

        Returns:
            Per segment `{"image_id", "category_id", "segmentation", "score"}`, the segmentation as a run-length
            code of the image size.
        """
        return [
            {
                "image_id": image_id,
                "category_id": info["label_id"],
                "segmentation": encode_rle(self.segmentation == info["id"]),
                "score": info["score"],
            }
            for info in self.segments_info
        ]

    @property
    def _noun(self) -> str:
        return "segment"

    def _size(self) -> tuple[int, int]:
        return self.image_size

    def _classes(self) -> tuple[list[int], list[str]]:
        return [info["label_id"] for info in self.segments_info], [info["name"] for info in self.segments_info]

    def _draw_on(self, image: Image.Image) -> Image.Image:
        """Overlay the segments in the colors of their classes, with names."""
        class_ids, labels = self._classes()
        scores = [info["score"] for info in self.segments_info]
        captions = [
            label if score is None else f"{label} {score:.2f}" for label, score in zip(labels, scores, strict=True)
        ]
        ids = [info["id"] for info in self.segments_info]
        return draw_segments(image, self.segmentation, ids, captions, class_ids)


def renumber(values: np.ndarray[Any, Any], kept: Sequence[int]) -> np.ndarray[Any, Any]:
    """Number the segments of a map from 1.

    Args:
        values: `(H, W)` integers that are not negative, such as other segment ids or classes.
        kept: The values that become segments.

    Returns:
        `(H, W)` int32: n + 1 where the value is `kept[n]`, `NO_SEGMENT` where it is not among them.
    """
    table = np.full(max([int(values.max()), *kept]) + 1, NO_SEGMENT, dtype=np.int32)
    table[list(kept)] = np.arange(1, len(kept) + 1)
    return table[values]
