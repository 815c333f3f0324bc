"""Bundled model: a small DETR for generated scenes that works offline."""

from __future__ import annotations

from pathlib import Path

NAME = "detr-mobilenetv2-scenes"
"""Name of the bundled model in commands and `from_pretrained`. Names on the Hub have an owner, so none is equal."""

FOLDER = Path(__file__).with_name("bundled_models") / NAME
"""Folder with configuration, weights in half precision, image processor and metrics."""

MEASURED = FOLDER / "measured.json"
"""File with the average precision on held-out scenes, and the training stages with their curves."""


def bundled_folder(name: str) -> str:
    """Return the folder of the bundled model if it is named, else the name itself."""
    return str(FOLDER) if name == NAME else name
