"""Ground truth in COCO's own layout: the dictionaries that every scorer of the field reads."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class CocoImage(TypedDict):
    """One image: `id`, `file_name`, and its `height` and `width` in pixels."""

    id: int
    file_name: str
    height: int
    width: int


class CocoAnnotation(TypedDict):
    """One object: `bbox` is x, y, width, height in pixels; `segmentation` polygons or a run-length code."""

    image_id: int
    category_id: int
    bbox: list[float]
    id: NotRequired[int]
    area: NotRequired[float]
    iscrowd: NotRequired[int]
    segmentation: NotRequired[Any]


class CocoCategory(TypedDict):
    """One class: `isthing` is 0 for stuff and only matters for panoptic quality."""

    id: int
    name: str
    isthing: NotRequired[int]


class CocoDataset(TypedDict):
    """Images, their objects and the classes; images without objects count too."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]
