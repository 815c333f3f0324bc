"""Training dataset and collator: records → augmented samples → batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from transformers_detr.data.records import ImageRecord
from transformers_detr.model.annotations_detr import detection_target, relative_target
from transformers_detr.model.image_io_detr import pixels_size
from transformers_detr.model.padding_detr import pad_batch

Sample = dict[str, Any]


class Draw(NamedTuple):
    """One sample of an epoch: the image and its augmentation. Equal draws give equal samples in every process.

    Attributes:
        image: Index of the image.
        edge: Shorter side to resize it to.
        seed: Seed of its augmentation.
    """

    image: int
    edge: int
    seed: int


class TrainingDataset(Dataset[Sample]):
    """Dataset of augmented images with their targets.

    Args:
        records: The images.
        transforms: The augmentation for each shorter side.
        with_masks: Whether targets get masks.
        num_channels: Channels of the model.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        transforms: Mapping[int, v2.Transform],
        with_masks: bool = False,
        num_channels: int = 3,
    ):
        self.records = records
        self.transforms = transforms
        self.with_masks = with_masks
        self.num_channels = num_channels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: Draw) -> Sample:
        """Return an augmented image `pixels` `(C, H, W)` uint8 and its target `labels`.

        Raises:
            DatasetError: The image cannot be read, or has other channels.
            ValueError: An annotation is wrong; the message names file, image and annotation.
        """
        record = self.records[draw.image]
        pixels = record.load_pixels(self.num_channels)
        size = pixels_size(pixels)
        target = detection_target(record.coco_target(), size, self.with_masks, name=str(record.path))
        sample: Sample = {
            "image": v2.functional.to_image(pixels),
            "boxes": tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size),
        }
        if self.with_masks:
            sample["masks"] = tv_tensors.Mask(target["masks"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            sample = self.transforms[draw.edge](sample)
        return {"pixels": sample["image"].as_subclass(Tensor), "labels": _target(target, sample)}


def _target(before: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Return the target of an augmented sample, without the objects that were cropped away."""
    size = tuple(sample["image"].shape[-2:])
    boxes = sample["boxes"].as_subclass(Tensor)
    boxes = torch.stack([boxes[:, 0::2].clamp(0, size[1]), boxes[:, 1::2].clamp(0, size[0])], dim=2).flatten(1)
    kept = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= 1
    masks = sample["masks"].as_subclass(Tensor) if "masks" in sample else None
    if masks is not None:
        kept &= masks.flatten(1).any(1)
    boxes = boxes[kept]
    after = {
        **before,
        "size": torch.tensor(size),
        "boxes": boxes,
        "class_labels": before["class_labels"][kept],
        "iscrowd": before["iscrowd"][kept],
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(1) if masks is None else masks[kept].flatten(1).sum(1).float(),
    }
    if masks is not None:
        after["masks"] = masks[kept]
    return relative_target(after)


class DetrCollator:
    """Collate function: normalize and pad samples to a batch, as the image processor does.

    Args:
        mean: Mean per channel of images in [0, 1].
        std: Standard deviation per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = torch.tensor(mean)[:, None, None] * 255
        self.std = torch.tensor(std)[:, None, None] * 255

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return `pixel_values`, `pixel_mask` and `labels` of the batch."""
        pixels = [(sample["pixels"] - self.mean) / self.std for sample in samples]
        pixel_values, pixel_mask = pad_batch(pixels, always_mask=True)
        return {
            "pixel_values": pixel_values,
            "pixel_mask": pixel_mask,
            "labels": [sample["labels"] for sample in samples],
        }
