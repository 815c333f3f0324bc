"""Get the model to evaluate, with its image processor: by name, or loaded already."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.registry import Backend, Precision
from transformers_detr.evaluation import Padding
from transformers_detr.hub.loading import load_by_architecture
from transformers_detr.inference.predictor import Predictor
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.resize_detr import SizeDict


@dataclass(frozen=True)
class ModelOptions:
    """Options for loading a model and its image processor; for the attributes see `evaluate`."""

    image_processor: DetrImageProcessor | None
    device: str | torch.device | None
    dtype: str | torch.dtype | None
    backend: Backend | None
    precision: Precision | None
    revision: str | None

    def load(
        self, model: Any, size: int | None, padding: Padding, check_padding: bool
    ) -> tuple[Any, DetrImageProcessor, str]:
        """Return the model, its image processor and its name."""
        if isinstance(model, str | Path):
            loaded, processor = self._open(str(model))
            name = str(model)
        else:
            loaded, processor, name = self._given(model)
        if isinstance(loaded, ExportedModel) and (padding != "exact" or check_padding):
            raise ValueError("the padding of an exported model is fixed: leave out padding and check_padding")
        if size is not None:
            processor = copy.deepcopy(processor)
            processor.size = _scaled(processor.size, size)
        return loaded, processor, name

    def settings(self) -> dict[str, Any]:
        """Return the settings that the predictions depend on."""
        return {
            "revision": self.revision,
            "dtype": None if self.dtype is None else str(self.dtype).removeprefix("torch."),
            "backend": self.backend,
            "precision": (self.precision or "fp32") if self.backend else None,
        }

    def _open(self, name: str) -> tuple[Any, DetrImageProcessor]:
        if self.backend is not None:
            if self.dtype is not None:
                raise ValueError("the dtype of an exported model is fixed: leave out dtype")
            device = str(self.device or "cpu")
            return open_exported(name, self.backend, self.precision or "fp32", device=device, revision=self.revision)
        if self.precision is not None:
            raise ValueError("precision needs a backend: it selects one of the backend's exported graphs")
        model, processor = load_by_architecture(name, revision=self.revision, dtype=self.dtype)
        place = self.device or _default_device()
        try:
            moved = model.to(place)  # type: ignore[arg-type]  # Transformers' `to` has no types
            return moved.fuse(), self.image_processor or processor
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {str(place)!r} cannot be used: {str(error).splitlines()[0]}") from error

    def _given(self, model: Any) -> tuple[Any, DetrImageProcessor, str]:
        unused = [n for n in ("device", "dtype", "backend", "precision", "revision") if getattr(self, n) is not None]
        if unused:
            raise ValueError(f"{', '.join(unused)}: only for a model given by name, not for a loaded one")
        processor = self.image_processor
        if isinstance(model, Predictor):
            processor = processor or model.image_processor
            model = model.model
        if not hasattr(model, "supports_exact_padding"):
            raise TypeError(f"model must be a name, a folder, a DETR model or a Detector, got {type(model).__name__}")
        name = str(getattr(model, "name_or_path", "")) or type(model).__name__
        if processor is None:
            if not Path(name).is_dir():
                raise ValueError("a loaded model needs its image processor: give image_processor")
            processor = DetrImageProcessor.from_pretrained(name)
        return model, processor, name


def makes_masks(model: Any) -> bool:
    """Return whether the outputs of a model hold masks."""
    if isinstance(model, ExportedModel):
        return DetrForSegmentation.__name__ in (model.config.architectures or ())
    return isinstance(model, DetrForSegmentation)


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    was_training = getattr(model, "training", False)
    model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _scaled(size: SizeDict, shortest_edge: int) -> SizeDict:
    """Return a size with another shortest edge, and the longest edge in proportion."""
    if set(size) != {"shortest_edge", "longest_edge"}:
        raise ValueError(f"the image processor's size is given by {', '.join(size)}, not by its shortest edge")
    longest_edge = round(size["longest_edge"] * shortest_edge / size["shortest_edge"])
    return SizeDict(shortest_edge=shortest_edge, longest_edge=longest_edge)


def _default_device() -> str:
    """Return the accelerator that belongs to this process, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else f"{accelerator.type}:{os.environ.get('LOCAL_RANK', '0')}"
