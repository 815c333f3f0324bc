"""Synthetic scenes: images of textured shapes with exact ground truth, the same bits for the same seed.

A scene is painted from back to front, so occlusion is known to the pixel. Boxes and masks hold the *visible* part of an
object, as an annotator would draw it. A shape that would hide more than `1 - MIN_VISIBLE` of an earlier one, or be cut
off that much by the frame, is not painted: everything recognizable in an image has its annotation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from transformers_detr.atomic_io import atomic_folder
from transformers_detr.data.synthetic_shapes import CLASS_NAMES, OUTLINES, Points, place, rasterize
from transformers_detr.model.coco_masks_detr import encode_rle
from transformers_detr.model.image_io_detr import Pixels, load_pixels

__all__ = ["CLASS_NAMES", "Scene", "SceneObject", "make_scene", "write_scenes"]

MIN_VISIBLE = 0.5
"""Visible share of an object's area, at least, after occlusion and cropping by the frame."""

SIDES = (192, 208, 224, 240, 256)
"""Heights and widths in pixels, drawn at random."""

Field = NDArray[np.float32]


@dataclass(frozen=True)
class SceneObject:
    """One object: `label` indexes `CLASS_NAMES`; the box is tight around its visible pixels.

    A crowd is a cluster of small shapes of one class in one box, as in COCO.
    """

    label: int
    box_xyxy_px: tuple[int, int, int, int]
    area: int
    iscrowd: bool


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth; `instances` is `(H, W)`: `i + 1` in the pixels of `objects[i]`, else 0."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    instances: NDArray[np.uint8]

    def nearest_objects(self, boxes_xyxy_px: NDArray[np.float32]) -> list[tuple[SceneObject | None, float]]:
        """Find the object that each box overlaps most.

        Args:
            boxes_xyxy_px: `(N, 4)`.

        Returns:
            For each box the object, None without overlap, and the IoU. Crowds are left out.
        """
        nearest: list[tuple[SceneObject | None, float]] = []
        objects = [item for item in self.objects if not item.iscrowd]
        for left, top, right, bottom in boxes_xyxy_px.tolist():
            best: tuple[SceneObject | None, float] = (None, 0.0)
            for item in objects:
                x1, y1, x2, y2 = item.box_xyxy_px
                shared = max(0.0, min(right, x2) - max(left, x1)) * max(0.0, min(bottom, y2) - max(top, y1))
                iou = shared / ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared)
                best = max(best, (item, iou), key=lambda pair: pair[1])
            nearest.append(best)
        return nearest

    def pixels(self, num_channels: int) -> Pixels:
        """Return the image with the channels of a model: gray for one, else red, green and blue, repeated."""
        if num_channels == 1:
            return load_pixels(self.image, 1)
        return load_pixels(np.asarray(self.image)[..., np.arange(num_channels) % 3], num_channels)

    def coco_annotations(self, image_id: int, first_id: int = 1, segmentation: bool = False) -> list[dict[str, Any]]:
        """Describe the objects as COCO annotations; the category id is the label.

        Args:
            image_id: Image id of the annotations.
            first_id: Id of the first annotation; ids go up by 1.
            segmentation: Add the visible pixels as COCO's run-length code.
        """
        annotations = []
        for index, item in enumerate(self.objects):
            left, top, right, bottom = item.box_xyxy_px
            annotation: dict[str, Any] = {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": item.label,
                "bbox": [left, top, right - left, bottom - top],
                "area": item.area,
                "iscrowd": int(item.iscrowd),
            }
            if segmentation:
                annotation["segmentation"] = encode_rle(self.instances == index + 1)
            annotations.append(annotation)
        return annotations


def make_scene(seed: int, index: int = 0, size: tuple[int, int] | None = None) -> Scene:
    """Paint one scene; equal arguments give equal bits.

    One scene in sixteen is empty. One in eight holds up to 16 small objects, the others up to 8. One in ten of the
    scenes with objects also holds a crowd.

    Args:
        seed: Seed of a series of scenes.
        index: Position in the series.
        size: (height, width) in pixels; None draws both from `SIDES`.

    Returns:
        The scene: image, objects and instance map.
    """
    rng = np.random.default_rng([seed, index])
    height, width = size or (int(side) for side in rng.choice(SIDES, 2))
    painter = _Painter(rng, height, width)
    kind = rng.random()
    if kind < 1 / 16:
        count, radii = 0, (0.0, 0.0)
    elif kind < 3 / 16:
        count, radii = int(rng.integers(10, 17)), (0.07, 0.11)
    else:
        count, radii = int(rng.integers(1, 9)), (0.08, 0.28)
    if count and rng.random() < 0.1:
        painter.add_crowd()
    for _ in range(count):
        painter.add_object(radii)
    return painter.finish()


def write_scenes(folder: str | Path, count: int, seed: int = 0, progress: Callable[[int], None] | None = None) -> Path:
    """Write scenes as a COCO dataset: `images/000000.png` … and `annotations.json`.

    Scene `i` is `make_scene(seed, i)`, and `i` is its image id. `DetectionDataset.load` reads the folder, which is
    written atomically.

    Args:
        folder: Folder to make; it must not exist.
        count: Number of scenes, at least 1.
        seed: Seed of the scenes.
        progress: Called with the number of scenes written so far, after each.

    Returns:
        The folder.

    Raises:
        FileExistsError: If `folder` exists.
        ValueError: If `count` is below 1.
    """
    folder = Path(folder)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    with atomic_folder(folder) as partial:
        (partial / "images").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            scene = make_scene(seed, index)
            name = f"{index:06d}.png"
            scene.image.save(partial / "images" / name, compress_level=1)
            images.append({"id": index, "file_name": name, "width": scene.image.width, "height": scene.image.height})
            annotations += scene.coco_annotations(index, len(annotations) + 1, segmentation=True)
            if progress is not None:
                progress(index + 1)
        dataset = {
            "info": {"description": f"Generated scenes: series {seed}, {count} images"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": label, "name": name} for label, name in enumerate(CLASS_NAMES)],
        }
        (partial / "annotations.json").write_text(json.dumps(dataset), encoding="utf-8")
    return folder


class _Painter:
    """An image being painted: pixels, the object of each pixel, and the unoccluded area of each object."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.size = (height, width)
        self.pixels = _background(rng, height, width)  # (H, W, 3), 1 is white
        self.instances = np.zeros((height, width), dtype=np.uint8)
        self.labels: list[tuple[int, bool]] = []  # class, is a crowd
        self.whole_areas: list[int] = []
        angle = rng.uniform(0, 2 * math.pi)
        self.light = (math.cos(angle), math.sin(angle))  # x, y toward the darker side
        self.shadow = float(rng.uniform(0, 0.5))

    def add_object(self, radii: tuple[float, float]) -> None:
        """Paint one shape somewhere; `radii` are limits, relative to the image's shorter side."""
        label = int(self.rng.integers(len(CLASS_NAMES)))
        radius = math.exp(self.rng.uniform(math.log(radii[0]), math.log(radii[1]))) * min(self.size)
        self._paint(label, [self._shape(label, radius)], is_crowd=False)

    def add_crowd(self) -> None:
        """Paint a cluster of small shapes of one class, annotated as one crowd."""
        label = int(self.rng.integers(len(CLASS_NAMES)))
        radius = self.rng.uniform(0.03, 0.04) * min(self.size)
        spread = self.rng.uniform(2.5, 5, 2) * radius
        shapes = []
        for _ in range(int(self.rng.integers(12, 25))):
            offset = self.rng.uniform(-spread, spread)
            shapes.append([polygon + offset for polygon in self._shape(label, radius)])
        self._paint(label, shapes, is_crowd=True)

    def finish(self) -> Scene:
        """Light the image, add the camera's noise and measure what is visible of each object."""
        rng, (height, width) = self.rng, self.size
        y, x = _grid(height, width)
        slope = rng.uniform(0, 0.5)
        gain = 1 - slope * (self.light[0] * x / width + self.light[1] * y / height)
        tint = rng.uniform(0.55, 1.1) * rng.uniform(0.9, 1.1, 3)
        noise = rng.standard_normal((height, width, 3), dtype=np.float32) * np.float32(rng.uniform(0, 0.05))
        lit = self.pixels * (gain[..., None] * tint.astype(np.float32)) + noise
        image = Image.fromarray((lit.clip(0, 1) * 255 + 0.5).astype(np.uint8))
        objects = []
        for index, (label, is_crowd) in enumerate(self.labels):
            visible = self.instances == index + 1
            columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            objects.append(SceneObject(label, box, int(visible.sum()), is_crowd))
        return Scene(image, tuple(objects), self.instances)

    def _shape(self, label: int, radius: float) -> list[Points]:
        stretch = math.exp(self.rng.uniform(-0.3, 0.3))
        return place(OUTLINES[CLASS_NAMES[label]], radius, stretch, self.rng.uniform(0, 2 * math.pi))

    def _paint(self, label: int, shapes: list[list[Points]], is_crowd: bool) -> None:
        height, width = self.size
        coverage, corner = rasterize(shapes)
        whole_area = int((coverage >= 0.5).sum())
        margin = 0.3 * np.array(coverage.shape[::-1])  # most objects lie wholly inside the frame
        center = self.rng.uniform(margin, (width, height) - margin)
        left, top = (int(v) for v in np.round(center + corner))
        window, coverage = _crop(coverage, top, left, self.size)
        solid = coverage >= 0.5
        if solid.sum() < MIN_VISIBLE * whole_area or self._hides_too_much(window, solid):
            return
        under = self.pixels[window]
        candidates = self.rng.uniform(0.05, 1, (4, 3)).astype(np.float32)
        distances = np.abs(candidates - under.mean(axis=(0, 1))).sum(axis=1)
        color = candidates[distances.argmax()]  # so that most objects stand out
        self._cast_shadow(window, coverage)
        skin = color * (_texture(self.rng, *solid.shape) * self._shading(*solid.shape))[..., None]
        under += coverage[..., None] * (skin - under)
        self.instances[window][solid] = len(self.labels) + 1
        self.labels.append((label, is_crowd))
        self.whole_areas.append(whole_area)

    def _hides_too_much(self, window: tuple[slice, slice], solid: NDArray[np.bool_]) -> bool:
        hidden = np.bincount(self.instances[window][solid], minlength=len(self.labels) + 1)[1:]
        touched = np.flatnonzero(hidden)
        visible = np.array([(self.instances == index + 1).sum() for index in touched])
        whole = np.array([self.whole_areas[index] for index in touched])
        return bool((visible - hidden[touched] < MIN_VISIBLE * whole).any())

    def _cast_shadow(self, window: tuple[slice, slice], coverage: Field) -> None:
        top = window[0].start + round(4 * self.light[1])
        left = window[1].start + round(4 * self.light[0])
        shaded, coverage = _crop(coverage, top, left, self.size)
        self.pixels[shaded] *= (1 - self.shadow * coverage)[..., None]

    def _shading(self, height: int, width: int) -> Field:
        y, x = _grid(height, width)
        across: Field = self.light[0] * (x / np.float32(width) - 0.5)
        down: Field = self.light[1] * (y / np.float32(height) - 0.5)
        return 1 - self.shadow * (0.5 + across + down)


def _background(rng: np.random.Generator, height: int, width: int) -> Field:
    """Clouds of two grains between two colors, crossed by a few strokes; `(H, W, 3)`."""
    coarse, fine = int(rng.integers(2, 7)), int(rng.integers(12, 49))
    share = np.float32(rng.uniform(0, 0.5))
    mix = (1 - share) * _cloud(rng, height, width, coarse) + share * _cloud(rng, height, width, fine)
    first, second, ink = rng.uniform(0, 1, (3, 3)).astype(np.float32)
    pixels = first + (second - first) * mix[..., None]
    strokes = Image.new("L", (2 * width, 2 * height))
    draw = ImageDraw.Draw(strokes)
    for _ in range(int(rng.integers(0, 7))):
        points = rng.uniform((0, 0), (2 * width, 2 * height), (int(rng.integers(2, 5)), 2))
        draw.line(points.ravel().tolist(), fill=int(rng.integers(60, 200)), width=int(rng.integers(2, 9)))
    coverage = np.asarray(strokes.reduce(2), dtype=np.float32)[..., None] / np.float32(255)
    return pixels + coverage * (ink - pixels)


def _cloud(rng: np.random.Generator, height: int, width: int, cells: int) -> Field:
    """Smooth noise in [0, 1] with `cells` blobs along each side; `(height, width)`."""
    grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / np.float32(255)


def _texture(rng: np.random.Generator, height: int, width: int) -> Field:
    """A surface as brightness factors `(height, width)`: plain, striped, chequered or cloudy."""
    kind = int(rng.integers(4))
    depth = np.float32(rng.uniform(0.2, 0.6))
    if kind == 0:
        return np.ones((height, width), dtype=np.float32)
    if kind == 3:
        return 1 - depth * _cloud(rng, height, width, 6)
    y, x = _grid(height, width)
    angle, period = rng.uniform(0, math.pi), rng.uniform(5, 12)
    across = np.floor((x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))) / period)
    along = np.floor((y * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle))) / period)
    return 1 - depth * ((across + along if kind == 2 else across) % 2).astype(np.float32)


def _grid(height: int, width: int) -> tuple[Field, Field]:
    """Row and column numbers that broadcast to `(height, width)`."""
    return (
        np.arange(height, dtype=np.float32)[:, None],
        np.arange(width, dtype=np.float32)[None, :],
    )


def _crop(patch: Field, top: int, left: int, size: tuple[int, int]) -> tuple[tuple[slice, slice], Field]:
    """Crop a patch to the image; return its window in the image and the cropped patch."""
    bottom, right = min(top + patch.shape[0], size[0]), min(left + patch.shape[1], size[1])
    window = (slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0)))
    return window, patch[window[0].start - top : bottom - top, window[1].start - left : right - left]
