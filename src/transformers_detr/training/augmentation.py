"""Augmentation of images with their boxes and masks, by torchvision's `transforms.v2`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from transformers_detr.model.resize_detr import resized_size

PAPER_EDGE = 800
"""Longest of the paper's shorter sides; its other lengths in pixels are scaled relative to it."""


class ResizeShortestEdge(v2.Transform):
    """Resize the shorter side to one of several lengths, rounding as the image processor does.

    Args:
        edges: Lengths of the shorter side to draw from.
        longest_edge: Limit of the longer side, or None.
    """

    def __init__(self, edges: list[int], longest_edge: int | None = None):
        super().__init__()
        self.edges = edges
        self.longest_edge = longest_edge

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a length."""
        limits = {"shortest_edge": self.edges[_draw(0, len(self.edges) - 1)]}
        if self.longest_edge is not None:
            limits["longest_edge"] = self.longest_edge
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"size": list(resized_size(height, width, limits))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image, boxes or masks."""
        return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=True)


class CropWindow(v2.Transform):
    """Cut out a window whose sides are drawn between two lengths, each limited to the image's.

    The longer side has the orientation of the image's, so that batches keep similar aspect ratios.

    Args:
        least: Shortest side.
        most: Longest side.
    """

    def __init__(self, least: int, most: int):
        super().__init__()
        self.least = least
        self.most = most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a window."""
        height, width = v2.functional.get_size(flat_inputs[0])
        short, long = sorted(_draw(min(self.least, height, width), min(self.most, side)) for side in (height, width))
        window_height, window_width = (long, short) if height > width else (short, long)
        return {
            "top": _draw(0, height - window_height),
            "left": _draw(0, width - window_width),
            "height": window_height,
            "width": window_width,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop an image, boxes or masks."""
        return self._call_kernel(v2.functional.crop, inpt, **params)


class JitterColors(v2.ColorJitter):
    """Color jitter of gray and RGB; alpha, and images of five channels or more, remain unchanged."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the colors of an image `(C, H, W)`; boxes and masks have none."""
        if not isinstance(inpt, tv_tensors.Image) or len(inpt) > 4:
            return inpt
        colors = 1 if len(inpt) < 3 else 3
        changed = super().transform(inpt[:colors], params)
        return tv_tensors.wrap(torch.cat([changed, inpt[colors:]]), like=inpt)


def paper(edge: int, longest_edge: int, largest: int) -> v2.Transform:
    """Build the paper's augmentation: flip; with probability ½ crop a window of a smaller copy; resize.

    Source: Carion et al., End-to-End Object Detection with Transformers, 2020, 4; lengths of 400 to 600 pixels
    belong to a longest shorter side of 800 and follow `largest`.

    Args:
        edge: Wanted shorter side.
        longest_edge: Limit of the longer side.
        largest: Longest of the shorter sides of the whole training.
    """
    smaller, least, most = ([400, 500, 600], 384, 600)
    factor = largest / PAPER_EDGE
    window = [
        ResizeShortestEdge([round(side * factor) for side in smaller]),
        CropWindow(round(least * factor), round(most * factor)),
    ]
    resize = ResizeShortestEdge([edge], longest_edge)
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomApply(window, 0.5), resize])


def small_data(edge: int, longest_edge: int, largest: int) -> v2.Transform:
    """Build the augmentation for small datasets: the paper's, with color jitter and more crops."""
    factor = largest / PAPER_EDGE
    window = [ResizeShortestEdge([round(side * factor) for side in (500, 650, 800)])]
    window += [CropWindow(round(300 * factor), round(700 * factor))]
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([JitterColors(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03)], 0.7),
            v2.RandomApply(window, 0.7),
            ResizeShortestEdge([edge], longest_edge),
        ]
    )


def any_way_up(edge: int, longest_edge: int, largest: int) -> v2.Transform:
    """Build the augmentation for images without an upright direction: flips in both directions, no crop."""
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), ResizeShortestEdge([edge], longest_edge)])


def only_resized(edge: int, longest_edge: int, largest: int) -> v2.Transform:
    """Only resize, as the image processor does."""
    return ResizeShortestEdge([edge], longest_edge)


PRESETS: dict[str, Callable[[int, int, int], v2.Transform]] = {
    "paper": paper,
    "small-data": small_data,
    "any-way-up": any_way_up,
    "none": only_resized,
}


def augmentations(name: str, edges: list[int], longest_edge: int) -> dict[int, v2.Transform]:
    """Build a preset for each wanted shorter side.

    Args:
        name: Key of `PRESETS`.
        edges: All shorter sides of the training.
        longest_edge: Limit of the longer side.
    """
    return {edge: PRESETS[name](edge, longest_edge, max(edges)) for edge in edges}


def _draw(least: int, most: int) -> int:
    return int(torch.randint(least, most + 1, ()))
