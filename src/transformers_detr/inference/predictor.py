"""Pictures in, one result for each out: the path that detection and segmentation share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.registry import Backend, Precision
from transformers_detr.hub.loading import load_pretrained
from transformers_detr.model.image_io_detr import load_image
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.padding_detr import largest_size, real_pixels, stack_padded
from transformers_detr.prefetch import prefetch_map

ImageSource = str | Path | bytes | Image.Image | np.ndarray[Any, Any] | Tensor
Result = TypeVar("Result")

DEFAULT_BATCH_SIZE = 4

_BATCHES_IN_WINDOW = 4
_LARGEST_PADDING = 0.25
_MOST_THREADS = 4


@dataclass(frozen=True)
class Prepared:
    """A picture on its way to the model.

    Attributes:
        pixel_values: As the model takes it, `(3, H, W)`.
        image_size: (height, width) of the upright picture.
        image: The upright picture, where it was kept.
    """

    pixel_values: Tensor
    image_size: tuple[int, int]
    image: Image.Image | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what the model sees."""
        return self.pixel_values.shape[1], self.pixel_values.shape[2]


class NotFiniteError(ValueError):
    """A model answers with NaN or infinity, of which thresholds would leave nothing, without a word."""


class Predictor(ABC, Generic[Result]):
    """Runs a model over pictures.

    A picture's result does not depend on the pictures that share its batch: padding is kept out of the
    backbone (`exact_padding`), and where a backbone does not allow that, only pictures of equal size share a batch.

    Args:
        model: The model. It is used on the device and with the dtype that it has, and left in evaluation mode.
        image_processor: What turns a picture into the model's input.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    default_model: ClassVar[str]
    """Hub id that `from_pretrained` loads if no other is named."""

    def __init__(self, model: PreTrainedModel | ExportedModel, image_processor: DetrImageProcessor):
        self.model = model
        self.image_processor = image_processor

    @property
    @abstractmethod
    def default_threshold(self) -> float:
        """The threshold where none is given."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        backend: Backend | None = None,
        precision: Precision = "fp32",
        **options: Any,
    ) -> Self:
        """Load from the Hub or a folder.

        Args:
            name_or_folder: Hub id, or a folder that `save_pretrained` or `conversion/` wrote. If not given,
                `default_model`.
            device: Where to run. If not given, an accelerator if there is one, else the CPU. A backend has names of
                its own, and runs on the CPU if none is given.
            dtype: Such as `torch.bfloat16` or its name. If not given, that of the stored weights.
            backend: "onnx", "openvino" or "torch": run what `detr export` wrote into a folder. If not given, the
                weights in PyTorch.
            precision: Of a backend: "fp32", "fp16" or "int8".
            **options: See `transformers_detr.hub.loading.load_pretrained`: `revision`, `token`, `cache_dir`,
                `local_files_only`, and, without a backend, arguments of the model's own `from_pretrained`.

        Raises:
            LoadingError: The model could not be loaded; the message says why and what to do.
            ValueError: There is no such backend or precision, the backend cannot use the device, or a dtype is given
                with a backend.
        """
        if backend is not None:
            if dtype is not None:
                raise ValueError(f"dtype goes with PyTorch's weights; a backend takes a precision, got {dtype!r}")
            name, architecture = name_or_folder or cls.default_model, cls.model_class.__name__
            return cls(*open_exported(name, backend, precision, str(device or "cpu"), architecture, **options))
        if dtype is not None:
            options["dtype"] = dtype
        model, image_processor = load_pretrained(cls.model_class, name_or_folder or cls.default_model, **options)
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        return cls(model.to(device), image_processor)

    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        threshold: float | None = ...,
        batch_size: int = ...,
        keep_images: bool = ...,
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, images: ImageSource, *, threshold: float | None = ..., batch_size: int = ..., keep_images: bool = ...
    ) -> Result: ...

    def __call__(
        self,
        images: ImageSource | list[Any] | tuple[Any, ...],
        *,
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        keep_images: bool = False,
    ) -> Result | list[Result]:
        """Work on one picture or on several.

        Args:
            images: A path, URL, bytes, PIL image, array or tensor, as `load_image` takes them; or a list or
                tuple of these, of any sizes. Paths, URLs and bytes are turned upright by their EXIF tag.
            threshold: What is found must score above it. If not given, `default_threshold`.
            batch_size: At most so many pictures go through the model at once.
            keep_images: Whether the results carry their picture.

        Returns:
            The result of one picture, or a list with that of each.

        Raises:
            ValueError: A picture cannot be read, an argument is out of range, or the model's answer is no number.
            OSError: A file or URL cannot be read.
            TypeError: An item is nothing that holds a picture.
        """
        several = isinstance(images, list | tuple)
        items: Iterable[Any] = images if isinstance(images, list | tuple) else [images]
        found = self.stream(items, threshold=threshold, batch_size=batch_size, keep_images=keep_images)
        return list(found) if several else next(found)

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        keep_images: bool = False,
    ) -> Iterator[Result]:
        """Work on any number of pictures, a few of which are in memory at a time.

        Pictures are read and prepared in threads while the model runs. Within each window of
        `window_length(batch_size)` consecutive pictures, those of similar shape share a batch; results come
        in the order of the pictures.

        Args:
            images: Any iterable of pictures; for it and the other arguments see `__call__`.
            threshold: What is found must score above it.
            batch_size: At most so many pictures go through the model at once.
            keep_images: Whether the results carry their picture.

        Returns:
            An iterator of one result per picture, which raises as `__call__` does.
        """
        outcomes = self.stream_with_errors(images, threshold=threshold, batch_size=batch_size, keep_images=keep_images)
        return map(_result_or_raise, outcomes)

    def stream_with_errors(
        self,
        images: Iterable[ImageSource],
        *,
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        keep_images: bool = False,
    ) -> Iterator[Result | Exception]:
        """Do as `stream`, but give a picture that fails as its error, and go on."""
        if threshold is None:
            threshold = self.default_threshold
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return self._outcomes(images, threshold, batch_size, keep_images)

    def _outcomes(
        self, images: Iterable[ImageSource], threshold: float, batch_size: int, keep_images: bool
    ) -> Iterator[Result | Exception]:
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        prepared = prefetch_map(self._prepare, enumerate(images), depth=2 * batch_size, threads=threads)
        while window := list(islice(prepared, window_length(batch_size))):
            readable = {index: item for index, item in enumerate(window) if isinstance(item, Prepared)}
            waiting: dict[int, Result | Exception] = {
                index: item for index, item in enumerate(window) if isinstance(item, Exception)
            }
            due = 0
            for batch in self.batches({index: item.shape for index, item in readable.items()}, batch_size):
                found = self._found([readable[index] for index in batch], threshold, keep_images)
                waiting.update(zip(batch, found, strict=True))
                while due in waiting:
                    yield waiting.pop(due)
                    due += 1
            yield from (waiting[index] for index in sorted(waiting))

    def _found(self, batch: list[Prepared], threshold: float, keep_images: bool) -> list[Result | Exception]:
        """Predict a batch; where that fails, each picture by itself, to know whose error it is."""
        try:
            return [*self.predict(batch, threshold, keep_images)]
        except NotFiniteError as error:
            if len(batch) == 1:
                return [error]
            return [one for item in batch for one in self._found([item], threshold, keep_images)]

    def _prepare(self, numbered: tuple[int, ImageSource]) -> Prepared | Exception:
        index, source = numbered
        try:
            image = load_image(source, name=None if isinstance(source, str | Path) else f"images[{index}]")
            return self.prepare(image, keep_image=True)
        except (ValueError, OSError, TypeError) as error:
            return error

    def prepare(self, image: Image.Image, keep_image: bool = False) -> Prepared:
        """Turn one upright RGB picture into what `predict` takes.

        Raises:
            ValueError: The processor cannot resize it, as its sides differ too much.
        """
        inputs = self.image_processor(images=image, do_pad=False, return_tensors="pt")
        return Prepared(inputs["pixel_values"][0], (image.height, image.width), image if keep_image else None)

    def batches(self, shapes: dict[int, tuple[int, int]], batch_size: int) -> list[list[int]]:
        """Group pictures that may go through the model together; see `group_by_shape`."""
        largest_padding = _LARGEST_PADDING if self.model.supports_exact_padding else 0.0
        return group_by_shape(shapes, batch_size, largest_padding)

    @torch.inference_mode()
    def predict(self, batch: Sequence[Prepared], threshold: float, keep_images: bool = False) -> list[Result]:
        """Run prepared pictures through the model together: one of the groups that `batches` makes.

        Args:
            batch: The pictures.
            threshold: What is found must score above it.
            keep_images: Whether the results carry their picture, where it was kept.

        Raises:
            NotFiniteError: What the model answers is no number.
        """
        self.model.eval()
        shapes = [item.shape for item in batch]
        padded = largest_size(shapes)
        pixel_values = stack_padded([item.pixel_values for item in batch], padded)  # (B, 3, H, W)
        pixel_mask = None if set(shapes) == {padded} else real_pixels(shapes, padded)
        outputs = self.model(
            pixel_values=pixel_values.to(self.model.device),
            pixel_mask=pixel_mask,
            exact_padding=pixel_mask is not None,
            **self._model_options(threshold),
        )
        if not outputs.logits.isfinite().all() or not outputs.pred_boxes.isfinite().all():
            raise NotFiniteError(
                "what the model answers is no number: its weights hold NaN, or its dtype is too small for them"
            )
        return self._results(outputs, batch, threshold, keep_images)

    def _model_options(self, threshold: float) -> dict[str, Any]:
        """Further arguments of the model."""
        return {}

    @abstractmethod
    def _results(self, outputs: Any, batch: Sequence[Prepared], threshold: float, keep_images: bool) -> list[Result]:
        """Turn the model's outputs for a batch into one result per picture."""


def _result_or_raise(outcome: Result | Exception) -> Result:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def window_length(batch_size: int) -> int:
    """Return how many consecutive pictures `Predictor.stream` groups into batches.

    A stream that is started anew at a multiple of this forms the same batches.
    """
    return _BATCHES_IN_WINDOW * batch_size


def group_by_shape(shapes: dict[int, tuple[int, int]], batch_size: int, largest_padding: float) -> list[list[int]]:
    """Group pictures of similar shape.

    Args:
        shapes: (height, width) of each picture, by its index.
        batch_size: At most so many in a group.
        largest_padding: The area that padding may add to a group, as a part of the pictures' own area; 0
            groups equal shapes only.

    Returns:
        Groups of indices, in ascending order of their lowest index.
    """
    groups: list[list[int]] = []
    for index in sorted(shapes, key=lambda index: (shapes[index], index)):
        grown = [*groups[-1], index] if groups else [index]
        height = max(shapes[member][0] for member in grown)
        width = max(shapes[member][1] for member in grown)
        own_area = sum(shapes[member][0] * shapes[member][1] for member in grown)
        padded_area = len(grown) * height * width
        if groups and len(grown) <= batch_size and padded_area <= own_area * (1 + largest_padding):
            groups[-1] = grown
        else:
            groups.append([index])
    return sorted(sorted(group) for group in groups)
