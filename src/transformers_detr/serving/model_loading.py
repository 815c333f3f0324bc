"""Names of models → what loads them for the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers_detr.hub.loading import holds_segmentation, is_path
from transformers_detr.inference.detector import Detector, Segmenter
from transformers_detr.serving.runner import ServedModel


def model_loaders(models: Sequence[str], **options: Any) -> dict[str, Callable[[], ServedModel]]:
    """Return what loads each model, by the name under which it is served.

    Args:
        models: Each a name on the Hub or a folder, or `NAME=` and one of these. A model is served under its name on
            the Hub, or that of its folder, unless another is given.
        **options: Of `from_pretrained`, such as `device` and `dtype`.

    Raises:
        ValueError: Two models would have the same name.
    """
    loaders: dict[str, Callable[[], ServedModel]] = {}
    for entry in models:
        name, _, source = entry.rpartition("=")
        if not name:
            name = Path(source).expanduser().resolve().name if is_path(source) else source
        if name in loaders:
            raise ValueError(f"two models would be called {name}; give one another name: NAME={source}")
        loaders[name] = partial(load_model, source, **options)
    return loaders


def load_model(source: str, **options: Any) -> ServedModel:
    """Load a detector or segmenter, whichever it is, and make it ready to answer.

    Args:
        source: Name on the Hub, or folder.
        **options: Of `from_pretrained`.

    Raises:
        LoadingError: It cannot be loaded.
    """
    kind = Segmenter if holds_segmentation(source) else Detector
    model = ServedModel(kind.from_pretrained(source, **options))
    model.warm_up()
    return model
