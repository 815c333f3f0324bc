"""Segments: what one picture was divided into, and its forms for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from transformers_detr.model.coco_masks_detr import encode_rle
from transformers_detr.model.postprocessing_segmentation_detr import NO_SEGMENT, segments_to_coco
from transformers_detr.visualization.annotate import draw_segments, upright_picture


@dataclass(frozen=True, eq=False, kw_only=True)
class Segments:
    """The N segments of one picture; they do not overlap.

    Attributes:
        segmentation: `(H, W)` int32: the id of each pixel's segment; 0 where there is none.
        segments_info: Per segment `id`, `label_id`, `name`, `score` between 0 and 1 (None in semantic
            segmentation, where no single query stands for a class) and `is_stuff`.
        image: The upright RGB picture, where it was asked for.
    """

    segmentation: np.ndarray[Any, Any]
    segments_info: list[dict[str, Any]]
    image: Image.Image | None = None

    def __len__(self) -> int:
        return len(self.segments_info)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the upright picture in pixels."""
        height, width = self.segmentation.shape
        return height, width

    def class_map(self, nothing: int = 0) -> np.ndarray[Any, Any]:
        """Return the class of each pixel.

        Args:
            nothing: What pixels without a segment get.

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
            image_id: The id of the picture in the annotations.
            file_name: Name under which the picture of ids will be saved, a PNG.

        Returns:
            The picture of ids, `(H, W, 3)` bytes, and the entry of `annotations`, with `image_id`, `file_name`
            and `segments_info` (`id`, `category_id`, `area`, `bbox`, `iscrowd`).
        """
        segments: Any = {"segmentation": self.segmentation, "segments_info": self.segments_info}
        return segments_to_coco(segments, image_id, file_name)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return entries of a COCO results file.

        Args:
            image_id: The id of the picture in the annotations.

        Returns:
            Per segment `{"image_id", "category_id", "segmentation", "score"}`, the segmentation as a run-length
            code of the size of the picture.
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

    def draw(self, image: Image.Image | None = None) -> Image.Image:
        """Lay the segments over a copy of the picture, in the colors of their classes, with names.

        Args:
            image: The upright picture. If not given, the one that was kept.

        Returns:
            An RGB picture of the same size.

        Raises:
            ValueError: No picture was given or kept, or its size is another.
        """
        picture = upright_picture(image, self.image, self.image_size)
        ids = [info["id"] for info in self.segments_info]
        labels = [info["label_id"] for info in self.segments_info]
        captions = [
            info["name"] if info["score"] is None else f"{info['name']} {info['score']:.2f}"
            for info in self.segments_info
        ]
        return draw_segments(picture, self.segmentation, ids, captions, labels)


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
