"""Chart of the queries' boxes as in the paper, drawn by matplotlib without its global state."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from transformers_detr.visualization.palette import BLUE, GREEN, VERMILION

SMALL = 0.05
"""Part of the image's area below which a box counts as small."""

KINDS = {"small": GREEN, "wide": VERMILION, "tall": BLUE}

GAP = 0.12
MAX_POINTS = 2000
"""Largest number of points drawn per query; more would only cover each other."""

SQUARE_INCHES = 1.1
DPI = 160


def query_chart(boxes_cxcywh: np.ndarray[Any, Any], title: str, columns: int) -> Image.Image:
    """Draw it; see `draw_queries`."""
    images, queries = boxes_cxcywh.shape[:2]
    columns = min(columns, queries)
    rows = math.ceil(queries / columns)
    place = np.arange(queries)
    corners = np.stack([place % columns, place // columns], axis=1) * (1 + GAP + np.array([0, GAP]))  # (Q, 2)
    width, height = columns * (1 + GAP) - GAP, rows * (1 + 2 * GAP) - GAP
    figure = Figure(figsize=(SQUARE_INCHES * width + 0.6, SQUARE_INCHES * height + 1.4), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(-0.02, width + 0.02), ylim=(height + 0.02, -2 * GAP))  # y grows downwards, as in images
    squares = [Rectangle((left, top), 1, 1) for left, top in corners.tolist()]
    axes.add_collection(PatchCollection(squares, facecolor="#f4f6f8", edgecolor="#c9ced4", linewidth=0.6))
    for query, (left, top) in enumerate(corners.tolist()):
        axes.text(left, top - 0.03, str(query), fontsize=7, color="#5c6570", va="bottom")

    shown = boxes_cxcywh[np.unique(np.linspace(0, images - 1, min(images, MAX_POINTS)).astype(int))]
    points = (shown[..., :2].clip(0, 1) + corners).reshape(-1, 2)
    colors = np.array(list(KINDS.values()))[_kinds(shown).reshape(-1)]
    size, alpha = np.clip(1500 / len(shown), 0.6, 12), float(np.clip(200 / len(shown), 0.15, 0.8))
    axes.scatter(points[:, 0], points[:, 1], c=colors, s=size, alpha=alpha, linewidths=0, rasterized=True)

    noun = "image" if images == 1 else "images"
    figure.suptitle(f"{title}\n" * bool(title) + f"Box centers of {queries} queries in {images:,} {noun}")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=color, label=f"{kind} box") for kind, color in KINDS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return Image.open(file).convert("RGB")


def _kinds(boxes_cxcywh: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the index in `KINDS` of each box `(…, 4)`."""
    width, height = boxes_cxcywh[..., 2], boxes_cxcywh[..., 3]
    return np.where(width * height < SMALL, 0, np.where(width >= height, 1, 2))
