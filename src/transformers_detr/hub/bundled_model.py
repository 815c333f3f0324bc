"""The bundled model: a small DETR for generated scenes, which works without network."""

from __future__ import annotations

from pathlib import Path

NAME = "detr-mobilenetv2-scenes"
"""The name that means it wherever a model is named; on the Hub no name is without an owner."""

FOLDER = Path(__file__).with_name("bundled_models") / NAME
"""Configuration, weights in half precision, image processor, and what was measured."""

MEASURED = FOLDER / "measured.json"
"""The average precision on unseen scenes, and the stages of the training with their curves."""


def bundled_folder(name: str) -> str:
    """The folder of the bundled model if that is what a name means, else the name itself."""
    return str(FOLDER) if name == NAME else name
