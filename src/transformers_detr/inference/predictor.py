"""Predictor: base of `Detector` and `Segmenter`, from images to one result per image."""

from __future__ import annotations

import difflib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.registry import Backend, Precision
from transformers_detr.hub.loading import load_pretrained
from transformers_detr.inference.freed_memory import FREED_MEMORY
from transformers_detr.model.image_io_detr import Pixels, load_image, load_pixels, pixels_size
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.padding_detr import group_by_shape, pad_batch
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel
from transformers_detr.prefetch import prefetch_map

ImageSource = str | Path | bytes | Image.Image | np.ndarray[Any, Any] | Tensor
Result = TypeVar("Result")

DEFAULT_BATCH_SIZE = 4

_BATCHES_IN_WINDOW = 4
_LARGEST_PADDING = 0.25
_MOST_THREADS = 4


@dataclass(frozen=True)
class Prepared:
    """One image prepared for the model.

    Attributes:
        pixel_values: As the model takes it, `(C, H, W)`.
        image_size: (height, width) of the upright image.
        image: The upright image as RGB, if it was kept.
        source: Path, URL or object that the image was read from, if known.
    """

    pixel_values: Tensor
    image_size: tuple[int, int]
    image: Image.Image | None = None
    source: ImageSource | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pixel values."""
        return self.pixel_values.shape[1], self.pixel_values.shape[2]


class NotFiniteError(ValueError):
    """The outputs of a model hold NaN or infinity, which no score threshold would let through."""


class Predictor(ABC, Generic[Result]):
    """Runs a model on images.

    The result of an image does not depend on the other images of its batch: padding is kept out of the
    backbone (`exact_padding`), and where a backbone does not allow that, only images of equal size share a batch.

    Args:
        model: Hub id or folder, see `from_pretrained`; by default `default_model`. Or a loaded model, which is used
            on its device and with its dtype, and set to evaluation mode.
        image_processor: Image processor. Required with a loaded model; otherwise it replaces the stored one.
        device: As for `from_pretrained`.
        dtype: As for `from_pretrained`.
        backend: As for `from_pretrained`.
        precision: As for `from_pretrained`.
        **options: As for `from_pretrained`.

    Raises:
        TypeError: An argument is of the wrong type, or does not go with a loaded model.
        LoadingError: The model cannot be loaded; the message says why and what to do.
        ValueError: As for `from_pretrained`, or model and image processor have different numbers of channels.
    """

    model_class: ClassVar[type[DetrPreTrainedModel]]
    default_model: ClassVar[str]
    """Hub id that `from_pretrained` loads if none is named."""

    def __init__(
        self,
        model: str | Path | DetrPreTrainedModel | ExportedModel | None = None,
        image_processor: DetrImageProcessor | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        backend: Backend | None = None,
        precision: Precision = "fp32",
        **options: Any,
    ):
        name = type(self).__name__
        if image_processor is not None and not callable(image_processor):
            raise TypeError(f"{name}: image_processor must be an image processor, got {image_processor!r}")
        if model is None or isinstance(model, str | Path):
            model, stored = self._load(model, device, dtype, backend, precision, **options)
            image_processor = image_processor or stored
        elif not isinstance(model, torch.nn.Module | ExportedModel):
            raise TypeError(f"{name}: model must be a Hub id, a folder or a model, got {type(model).__name__}")
        elif image_processor is None:
            raise TypeError(f"{name}: a loaded model needs its image_processor: {name}(model, image_processor)")
        else:
            options |= {"device": device, "dtype": dtype, "backend": backend}
            if given := [key for key, value in options.items() if value is not None]:
                raise TypeError(f"{name}: {', '.join(given)} can be given with a Hub id or folder, not with a model")
        self.model: DetrPreTrainedModel | ExportedModel = model
        self.image_processor = image_processor
        self.num_channels: int = model.config.num_channels
        if isinstance(image_processor, DetrImageProcessor) and image_processor.num_channels != self.num_channels:
            raise ValueError(
                f"{name}: the model takes {self.num_channels} channels and its image processor gives "
                f"{image_processor.num_channels}: image_mean and image_std must have {self.num_channels} numbers"
            )

    @property
    @abstractmethod
    def default_threshold(self) -> float:
        """The threshold if none is given."""

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
            name_or_folder: Hub id, or a folder that `save_pretrained` or `conversion/` wrote. By default
                `default_model`.
            device: Where to run. By default an accelerator if there is one, else the CPU. Backends have other
                device names and run on the CPU by default.
            dtype: Dtype such as `torch.bfloat16`, or its name. The default is the dtype of the stored weights.
            backend: "onnx", "openvino" or "torch": run the exported model in the folder. By default the weights run in
                PyTorch.
            precision: Precision of the exported model: "fp32", "fp16" or "int8".
            **options: See `transformers_detr.hub.loading.load_pretrained`: `revision`, `token`, `cache_dir`,
                `local_files_only`, and, without a backend, arguments of the model's own `from_pretrained`.

        Raises:
            LoadingError: The model cannot be loaded; the message says why and what to do.
            ValueError: There is no such backend or precision, the backend cannot use the device, or a dtype is given
                with a backend.
        """
        return cls(name_or_folder, device=device, dtype=dtype, backend=backend, precision=precision, **options)

    @classmethod
    def _load(
        cls,
        name_or_folder: str | Path | None,
        device: str | torch.device | None,
        dtype: str | torch.dtype | None,
        backend: Backend | None,
        precision: Precision,
        **options: Any,
    ) -> tuple[DetrPreTrainedModel | ExportedModel, DetrImageProcessor]:
        name = name_or_folder or cls.default_model
        if backend is not None:
            if dtype is not None:
                raise ValueError(f"dtype is for PyTorch weights only, got {dtype!r}; use precision with a backend")
            return open_exported(name, backend, precision, str(device or "cpu"), cls.model_class.__name__, **options)
        if dtype is not None:
            options["dtype"] = dtype
        try:
            model, image_processor = load_pretrained(cls.model_class, name, **options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise TypeError(f"{cls.__name__}: {str(error).partition('() ')[2] or error}") from error
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        moved = model.to(device)  # type: ignore[arg-type]  # Transformers' `to` has no types
        return moved.fuse(), image_processor

    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        threshold: float | None = ...,
        *,
        batch_size: int = ...,
        keep_images: bool = ...,
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, images: ImageSource, threshold: float | None = ..., *, batch_size: int = ..., keep_images: bool = ...
    ) -> Result: ...

    def __call__(
        self,
        images: ImageSource | list[Any] | tuple[Any, ...],
        threshold: float | None = None,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        keep_images: bool = False,
        **unknown: Any,
    ) -> Result | list[Result]:
        """Predict for one image or several.

        Args:
            images: A path, URL, bytes, PIL image, array or tensor, as `load_pixels` takes them; or a list or
                tuple of these, of any sizes. Paths, URLs and bytes are turned upright by their EXIF tag.
            threshold: Results must score above it. By default `default_threshold`.
            batch_size: Largest number of images per batch.
            keep_images: Whether the results keep the pixels of their image.
            **unknown: Refused.

        Returns:
            The result of one image, or a list with the result of each.

        Raises:
            ValueError: An image cannot be read, an argument is out of range, or the model's outputs are not finite.
            OSError: A file or URL cannot be read.
            TypeError: An item is not an image, or an argument is unknown or of the wrong type.
        """
        if unknown:
            name = next(iter(unknown))
            nearest = difflib.get_close_matches(name, ("threshold", "batch_size", "keep_images"), n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{type(self).__name__} call got an unexpected keyword argument {name!r}{hint}")
        several = isinstance(images, list | tuple)
        items: Iterable[Any] = images if isinstance(images, list | tuple) else [images]
        results = self.stream(items, threshold=threshold, batch_size=batch_size, keep_images=keep_images)
        return list(results) if several else next(results)

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        threshold: float | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        keep_images: bool = False,
    ) -> Iterator[Result]:
        """Predict for any number of images, with a few in memory at a time.

        Images are read and prepared in threads while the model runs. Within each window of
        `window_length(batch_size)` consecutive images, those of similar shape share a batch; results come
        in the order of the images. A result refers to its source: where images are in memory, collect what is needed
        of each result rather than all results.

        Args:
            images: Any iterable of images, as `__call__` takes them.
            threshold: Results must score above it.
            batch_size: Largest number of images per batch.
            keep_images: Whether the results keep the pixels of their image.

        Returns:
            An iterator with one result per image, which raises as `__call__` does.
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
        """Work like `stream`, but yield the error of an image that fails in place of its result."""
        if threshold is None:
            threshold = self.default_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number):
            raise TypeError(
                f"{type(self).__name__}: threshold must be a number between 0 and 1, got {threshold!r};"
                " pass several images as a list"
            )
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
        """Predict a batch; if that fails, each image alone, to find the image that fails."""
        try:
            return [*self.predict(batch, threshold, keep_images)]
        except NotFiniteError as error:
            if len(batch) == 1:
                return [error]
            return [one for item in batch for one in self._found([item], threshold, keep_images)]

    def _prepare(self, numbered: tuple[int, ImageSource]) -> Prepared | Exception:
        index, source = numbered
        try:
            name = None if isinstance(source, str | Path) else f"images[{index}]"
            return replace(self.prepare(load_pixels(source, self.num_channels, name), keep_image=True), source=source)
        except (ValueError, OSError, TypeError) as error:
            return error

    def prepare(self, image: Pixels, keep_image: bool = False) -> Prepared:
        """Prepare one upright image for `predict`, as `load_pixels` reads it for the model's `num_channels`.

        Raises:
            ValueError: The processor cannot resize it: its sides differ too much.
        """
        inputs = self.image_processor(images=image, do_pad=False, return_tensors="pt")
        return Prepared(inputs["pixel_values"][0], pixels_size(image), load_image(image) if keep_image else None)

    def batches(self, shapes: dict[int, tuple[int, int]], batch_size: int) -> list[list[int]]:
        """Group images into batches; see `group_by_shape`."""
        largest_padding = _LARGEST_PADDING if self.model.supports_exact_padding else 0.0
        return group_by_shape(shapes, batch_size, largest_padding)

    @torch.inference_mode()
    def predict(self, batch: Sequence[Prepared], threshold: float, keep_images: bool = False) -> list[Result]:
        """Run the model on one batch, a group that `batches` returned.

        Args:
            batch: The images.
            threshold: Results must score above it.
            keep_images: Whether the results keep their image, if it was prepared with it.

        Raises:
            NotFiniteError: The model's outputs hold NaN or infinity.
        """
        self.model.eval()
        pixel_values, pixel_mask = pad_batch([item.pixel_values for item in batch])  # (B, C, H, W), (B, H, W)
        outputs = self.model(
            pixel_values=pixel_values.to(self.model.device),
            pixel_mask=pixel_mask,
            exact_padding=pixel_mask is not None,
            **self._model_options(threshold),
        )
        if not outputs.logits.isfinite().all() or not outputs.pred_boxes.isfinite().all():
            raise NotFiniteError(
                "the model's outputs hold NaN or infinity: its weights hold NaN, or the range of its dtype is too small"
            )
        results = self._results(outputs, batch, threshold, keep_images)
        del outputs
        FREED_MEMORY.return_it()
        return results

    def _model_options(self, threshold: float) -> dict[str, Any]:
        """Further arguments of the model."""
        return {}

    @abstractmethod
    def _results(self, outputs: Any, batch: Sequence[Prepared], threshold: float, keep_images: bool) -> list[Result]:
        """Turn the model's outputs for a batch into one result per image."""


def _result_or_raise(outcome: Result | Exception) -> Result:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def window_length(batch_size: int) -> int:
    """Return how many consecutive images `Predictor.stream` groups into batches.

    A stream that starts at a multiple of this forms the same batches.
    """
    return _BATCHES_IN_WINDOW * batch_size
