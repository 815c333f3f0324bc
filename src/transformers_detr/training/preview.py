"""Contact sheet of augmented training samples with their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transformers_detr.model.boxes_detr import boxes_to_pixels, cxcywh_to_xyxy
from transformers_detr.model.image_io_detr import load_image
from transformers_detr.training.dataset import Draw, Sample, TrainingDataset
from transformers_detr.visualization.annotate import draw_boxes, draw_segments

CELL = 320
"""Width and height in pixels of a sample on the sheet."""

MARGIN = 4


def contact_sheet(
    images: TrainingDataset, class_names: Sequence[str], edges: Sequence[int], count: int = 24, seed: int = 0
) -> Image.Image:
    """Draw augmented samples side by side.

    Args:
        images: The training images with their augmentation.
        class_names: Name of each class id.
        edges: Shorter sides to draw from.
        count: Number of samples; images repeat where there are fewer, augmented differently.
        seed: Seed of the choice and the augmentation.

    Returns:
        The sheet.
    """
    rng = np.random.default_rng(seed)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * CELL, rows * CELL), "white")
    indices = np.resize(rng.permutation(len(images)), count)
    for place, index in enumerate(indices):
        draw = Draw(int(index), int(rng.choice(edges)), int(rng.integers(2**31)))
        cell = _draw_sample(images[draw], class_names)
        row, column = divmod(place, columns)
        sheet.paste(cell, (column * CELL + MARGIN, row * CELL + MARGIN))
    return sheet


def _draw_sample(sample: Sample, class_names: Sequence[str]) -> Image.Image:
    """Draw a sample with its boxes and masks, scaled to its cell."""
    image, target = load_image(sample["pixels"]), sample["labels"]
    factor = (CELL - 2 * MARGIN) / max(image.size)
    image = image.resize((round(image.width * factor), round(image.height * factor)))
    labels = target["class_labels"].tolist()
    if "masks" in target:
        image = _overlay_masks(image, target["masks"], labels)
    boxes = boxes_to_pixels(cxcywh_to_xyxy(target["boxes"]), torch.tensor([image.height, image.width]))
    return draw_boxes(image, boxes, [class_names[label] for label in labels], labels)


def _overlay_masks(image: Image.Image, masks: Tensor, labels: Sequence[int]) -> Image.Image:
    """Overlay masks `(N, H, W)` on an image of another size."""
    ids = np.zeros((image.height, image.width), dtype=np.int64)
    for number, mask in enumerate(masks.numpy(), start=1):
        ids[np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)) > 0] = (
            number
        )
    return draw_segments(image, ids, range(1, len(masks) + 1), [""] * len(masks), labels)
