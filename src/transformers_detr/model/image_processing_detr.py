"""Images, with or without annotations → what the model takes: pixel values, a mask of real pixels, targets."""

import copy
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import AnnotationFormat
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .annotations_detr import (
    Target,
    detection_target,
    pad_target,
    panoptic_target,
    relative_target,
    resize_target,
)
from .image_io_detr import array_planes, channels_last, load_pixels
from .padding_detr import DetrBatch, PreparedSize, largest_size, pad_batch, real_pixels, zeros
from .postprocessing_detr import post_process_object_detection
from .postprocessing_segmentation_detr import (
    post_process_instance_segmentation,
    post_process_panoptic_segmentation,
    post_process_semantic_segmentation,
)
from .processor_arguments_detr import FILE_KEYWORDS, LEGACY_KEYWORDS, read_settings, resampling
from .resize_detr import LONGEST_EDGE, Size, SizeDict, read_size, resized_size

# isort: split
# Early 5.x, loading custom code from a folder, copies only the files that this one names itself.
from .boxes_detr import xyxy_to_cxcywh  # noqa: F401
from .coco_masks_detr import decode_rle  # noqa: F401

logger = logging.get_logger(__name__)

SWITCHES = ("do_resize", "do_rescale", "do_normalize", "do_pad")
"""Switches for which an explicit None, as a setting of the processor, is kept and means off."""

Result = TypeVar("Result")
ImageParts = tuple[Image.Image, ...]
"""One PIL image of mode RGB (8 bit), or one of mode L (8 bit) or F (32-bit float) for each channel."""


class DetrImageProcessorKwargs(ImagesKwargs, total=False):
    """Keywords of `DetrImageProcessor` beyond those of every image processor.

    Args:
        format: "coco_detection" or "coco_panoptic", the format of annotations.
        do_convert_annotations: whether boxes become cxcywh relative to the image (without padding), or stay
            xyxy in pixels of the resized image.
        degenerate_boxes: "drop" or "refuse" objects that have no area inside the image.
        default_to_square: whether a bare number as `size` means a square; early 5.x lacks this one.
    """

    default_to_square: bool | None
    format: str | AnnotationFormat | None
    do_convert_annotations: bool | None
    degenerate_boxes: str | None


def _without_padding(post_process: Callable[..., Result]) -> Callable[..., Result]:
    """Add to post-processing what the target sizes of a pipeline remember of the padding; see `DetrBatch`."""

    @wraps(post_process)
    def with_processed_sizes(*args: Any, **kwargs: Any) -> Result:
        sizes = kwargs.get("target_sizes")
        if isinstance(sizes, list) and sizes and all(isinstance(size, PreparedSize) for size in sizes):
            kwargs.setdefault("processed_sizes", [size.processed for size in sizes])
        return post_process(*args, **kwargs)

    return with_processed_sizes


class DetrImageProcessor(BaseImageProcessor):
    """Prepares images and annotations for DETR, and turns the model's outputs into results.

    Images are resized as 8-bit RGB with Pillow, rescaled, normalized and padded at the bottom and on the right,
    which reproduces the original's numbers; images given as floats are resized as floats. There is one way of
    doing so, on the CPU; `device` says where the results go.

    `image_mean` and `image_std` hold one number per channel, three by default. With one number images are read as
    gray, with two as gray and alpha, with four as RGBA; channels are then resized one by one, colors not weighted
    by alpha. With more, images must be arrays of that many channels; see `image_io_detr`.

    Every setting below is a keyword of the constructor, an attribute, and a keyword of a call, for that call. None
    means the default in the constructor, or off for `do_resize`, `do_rescale`, `do_normalize` and `do_pad`; in a call
    it means the processor's setting.
    An unknown keyword is a TypeError; loading a file that has unknown ones is tolerated. Settings of other
    image processors (`do_convert_rgb`, `do_center_crop`, `crop_size`, `disable_grouping`,
    `image_seq_length`) are accepted and have no effect, as in stock.

    Args:
        do_resize: whether to resize.
        size: `{"shortest_edge", "longest_edge"}`, one of which may be left out, `{"height", "width"}`, or
            `{"max_height", "max_width"}`; a number is the shortest edge, with `max_size`, if not given 1333, as
            the longest. See `resized_size`.
        default_to_square: whether a bare number as `size` means a square instead.
        resample: Pillow's filter.
        do_rescale: whether to multiply with `rescale_factor`.
        rescale_factor: 1/255, which brings 0…255 to 0…1.
        do_normalize: whether to subtract `image_mean` and divide by `image_std`.
        image_mean: one number per channel, or one for all; with `image_std`, it sets the number of channels.
        image_std: as `image_mean`.
        do_pad: whether to pad the images of a batch to one size and return `pixel_mask`.
        pad_size: `{"height", "width"}` to pad to; if not given, that of the largest image.
        format: see `DetrImageProcessorKwargs`.
        do_convert_annotations: see `DetrImageProcessorKwargs`; None takes `do_normalize`.
        degenerate_boxes: see `DetrImageProcessorKwargs`.
    """

    valid_kwargs = DetrImageProcessorKwargs
    model_input_names = ["pixel_values", "pixel_mask"]  # noqa: RUF012

    do_resize = True
    size: Any = SizeDict(shortest_edge=800, longest_edge=LONGEST_EDGE)
    default_to_square = False
    resample: Any = Image.Resampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean: Any = (0.485, 0.456, 0.406)
    image_std: Any = (0.229, 0.224, 0.225)
    do_pad = True
    format: Any = AnnotationFormat.COCO_DETECTION
    do_convert_annotations: bool | None = None
    degenerate_boxes = "drop"
    # None unless given
    pad_size: Any
    return_tensors: Any
    data_format: Any
    input_data_format: Any
    device: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        for name in self.valid_kwargs.__annotations__:
            setattr(self, name, copy.deepcopy(getattr(type(self), name, None)))
        self._apply(kwargs)
        for name in SWITCHES:
            if kwargs.get(name, True) is None:
                setattr(self, name, None)
        if self.do_convert_annotations is None:
            self.do_convert_annotations = bool(self.do_normalize)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from the content of a file of any age, with settings that take precedence over it.

        Args:
            image_processor_dict: the content of a `preprocessor_config.json`; unknown keys are left out.
            **kwargs: settings; unknown keywords are ignored, or returned with `return_unused_kwargs=True`.

        Returns:
            The processor, or the processor and the unused keywords.
        """
        return_unused = kwargs.pop("return_unused_kwargs", False)
        known = cls._known_keywords()
        settings = {key: value for key, value in image_processor_dict.items() if key in known}
        if "do_pad" in kwargs:
            settings.pop("pad_and_return_pixel_mask", None)
        settings.update({key: kwargs.pop(key) for key in list(kwargs) if key in known})
        processor = cls(**settings)
        return (processor, kwargs) if return_unused else processor

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str]) -> Any:
        """Build a processor from a JSON file; see `from_dict`."""
        return cls.from_dict(json.loads(Path(json_file).read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        """The settings, ready for JSON, as every version of transformers reads them."""
        settings = {key: value for key, value in super().to_dict().items() if not key.startswith("_")}
        for key in ("default_to_square", "degenerate_boxes"):  # not in stock's files, so only if they say something
            if settings[key] == getattr(type(self), key):
                del settings[key]
        return {
            key: dict(value) if isinstance(value, SizeDict) else value
            for key, value in settings.items()
            if value is not None or key in SWITCHES
        }

    def preprocess(
        self,
        images: Any,
        annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | Path | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare images and annotations; this is what calling the processor does.

        Args:
            images: one image or a list of them, of any sizes: whatever `load_image` reads, arrays and tensors
                of floats (in 0…255, or with `do_rescale=False` in 0…1), arrays and tensors with a batch axis.
            annotations: for each image a dict, see `detection_target` and `panoptic_target`.
            return_segmentation_masks: whether targets get masks; by default in the panoptic format only.
            masks_path: folder of the panoptic PNGs.
            **kwargs: settings for this call, and `return_tensors` ("pt", also if not given, or "np"),
                `input_data_format` and `data_format` ("channels_first" or "channels_last", of arrays and
                tensors given, and of the pixel values returned), `device` (where the results go).

        Returns:
            `pixel_values (B, C, H, W)` float32, C = `num_channels`; with `do_pad`, `pixel_mask (B, H, W)` int64,
            1 on real pixels; with annotations, `labels`, B targets, see `annotations_detr`. Without `do_pad` and
            `return_tensors`, images of different sizes come as a list.

        Raises:
            ValueError: an image cannot be read or has other channels, annotations are wrong or not one per image, or a
                setting is out of range. The message names the image by its path or its place in the list.
            OSError: there is no such file, or a URL cannot be fetched.
            TypeError: unknown keyword, or an image that is none.
        """
        settings = copy.copy(self)
        settings._apply(kwargs)
        items = list(_flat(images))
        if not items:
            raise ValueError("images is empty")
        annotations = [annotations] if isinstance(annotations, Mapping) else annotations
        if annotations is not None and len(annotations) != len(items):
            raise ValueError(f"The number of images ({len(items)}) and annotations ({len(annotations)}) do not match.")

        images_parts = [settings._read(item, f"images[{index}]") for index, item in enumerate(items)]
        original_sizes = [(parts[0].height, parts[0].width) for parts in images_parts]
        sizes = settings._resized_sizes(original_sizes)
        padded = largest_size(sizes, settings._pad_size()) if settings.do_pad else None
        data: dict[str, Any] = {"pixel_values": settings._pixel_values(images_parts, sizes, padded)}
        if padded is not None:
            data["pixel_mask"] = real_pixels(sizes, padded)
        if annotations is not None:
            targets = settings._targets(annotations, original_sizes, return_segmentation_masks, masks_path)
            data["labels"] = [
                settings._fit_target(target, size, padded) for target, size in zip(targets, sizes, strict=True)
            ]
        return settings._output(data)

    def pad(
        self,
        images: Sequence[Any],
        annotations: Sequence[Target] | None = None,
        constant_values: float = 0,
        return_pixel_mask: bool = True,
        **kwargs: Any,
    ) -> BatchFeature:
        """Pad images that were prepared before, as a collate function does.

        Args:
            images: pixel values `(C, H, W)`, arrays or tensors.
            annotations: their targets; only masks are padded.
            constant_values: what to pad with.
            return_pixel_mask: whether to return `pixel_mask`.
            **kwargs: `pad_size`, `input_data_format`, `data_format`, `return_tensors`, `device`, as in `preprocess`.

        Returns:
            `pixel_values (B, C, H, W)`, of the type of the first image; `pixel_mask (B, H, W)`, `labels`.

        Raises:
            ValueError: no images, or one that is larger than `pad_size`.
        """
        settings = copy.copy(self)
        settings._apply(kwargs)
        tensors = [torch.as_tensor(image) for image in images]
        if not tensors:
            raise ValueError("images is empty")
        tensors = [
            tensor.permute(2, 0, 1)
            if channels_last(tensor.shape, self.num_channels, settings.input_data_format, True, f"images[{index}]")
            else tensor
            for index, tensor in enumerate(tensors)
        ]
        pixel_values, pixel_mask = pad_batch(tensors, settings._pad_size(), constant_values, always_mask=True)
        padded = (pixel_values.shape[2], pixel_values.shape[3])
        data: dict[str, Any] = {"pixel_values": pixel_values}
        if return_pixel_mask:
            data["pixel_mask"] = pixel_mask
        if annotations is not None:
            data["labels"] = [pad_target(dict(target), padded) for target in annotations]
        return settings._output(data)

    post_process_object_detection = staticmethod(post_process_object_detection)
    post_process_semantic_segmentation = staticmethod(_without_padding(post_process_semantic_segmentation))
    post_process_instance_segmentation = staticmethod(_without_padding(post_process_instance_segmentation))
    post_process_panoptic_segmentation = staticmethod(_without_padding(post_process_panoptic_segmentation))

    @property
    def num_channels(self) -> int:
        """Channels of the pixel values, one for each number in `image_mean`."""
        return max(np.size(self.image_mean), np.size(self.image_std))

    @classmethod
    def _known_keywords(cls) -> set[str]:
        return {*cls.valid_kwargs.__annotations__, *LEGACY_KEYWORDS, *FILE_KEYWORDS}

    def _apply(self, settings: Mapping[str, Any]) -> None:
        """Take over settings; None keeps the present value."""
        mean_and_std = self.image_mean, self.image_std
        read = read_settings(settings, self._known_keywords(), self.size, self.default_to_square, mean_and_std)
        for key, value in read.items():
            setattr(self, key, value)

    def _read(self, item: Any, name: str) -> ImageParts:
        if isinstance(item, (np.ndarray, Tensor)):
            planes = array_planes(item, self.num_channels, self.input_data_format, name)
        else:
            pixels = load_pixels(item, self.num_channels, name)
            if isinstance(pixels, Image.Image):  # Pillow would resize the colors of LA and RGBA weighted by alpha
                return (pixels,) if pixels.mode == "RGB" else pixels.split()
            planes = tuple(pixels.transpose(2, 0, 1))
        if self.do_rescale and planes[0].dtype == np.float32 and max(plane.max() for plane in planes) <= 1:
            logger.warning_once(
                "An image of floats has no value above 1, and do_rescale will divide it by 255 once more; "
                "for images in 0…1 pass do_rescale=False."
            )
        return tuple(Image.fromarray(np.ascontiguousarray(plane)) for plane in planes)

    def _resized_sizes(self, sizes: Sequence[Size]) -> list[Size]:
        if not self.do_resize:
            return list(sizes)
        size = read_size(self.size)
        return [resized_size(*original, size, f"images[{index}]") for index, original in enumerate(sizes)]

    def _pad_size(self) -> Size | None:
        if self.pad_size is None:
            return None
        size = read_size(self.pad_size, name="pad_size")
        if "height" not in size:
            raise ValueError(f"pad_size must give height and width, got {self.pad_size}")
        return size["height"], size["width"]

    def _pixel_values(
        self, images_parts: Sequence[ImageParts], sizes: Sequence[Size], padded: Size | None
    ) -> Tensor | list[Tensor]:
        """Resize, rescale and normalize each image straight into its place in the batch, several at a time."""
        batch: Tensor | list[Tensor]
        if padded is not None or len(set(sizes)) == 1:
            batch = zeros((len(images_parts), self.num_channels, *(padded or sizes[0])))
        else:
            batch = [zeros((self.num_channels, *size)) for size in sizes]
        scale, shift = self._scale_and_shift()

        def fill(place: Tensor, parts: ImageParts, size: Size) -> None:
            height, width = size
            bands = [band for part in parts for band in part.resize((width, height), resampling(self.resample)).split()]
            for channel, band in enumerate(bands):
                plane = place[channel, :height, :width].numpy()
                np.multiply(np.asarray(band), scale[channel], out=plane)
                plane += shift[channel]

        if len(images_parts) == 1:
            fill(batch[0], images_parts[0], sizes[0])
        else:
            with ThreadPoolExecutor(min(len(images_parts), torch.get_num_threads())) as threads:
                list(threads.map(fill, batch, images_parts, sizes))
        return batch

    def _scale_and_shift(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Per channel, float32: what rescaling and normalizing together multiply with, and then add."""
        factor = self.rescale_factor if self.do_rescale else 1.0
        if not self.do_normalize:
            return np.full(self.num_channels, factor, np.float32), np.zeros(self.num_channels, np.float32)
        mean, std = np.asarray(self.image_mean), np.asarray(self.image_std)
        return (factor / std).astype(np.float32), (-mean / std).astype(np.float32)

    def _targets(
        self,
        annotations: Sequence[Mapping[str, Any]],
        sizes: Sequence[Size],
        return_masks: bool | None,
        masks_path: str | Path | None,
    ) -> list[Target]:
        if AnnotationFormat(self.format) is AnnotationFormat.COCO_DETECTION:
            read = partial(detection_target, return_masks=bool(return_masks))
        elif masks_path is None:
            raise ValueError("masks_path, the folder of the panoptic PNGs, is needed for coco_panoptic")
        else:
            read = partial(panoptic_target, masks_path=masks_path, return_masks=return_masks is not False)
        try:
            return [
                read(annotation, size, degenerate_boxes=self.degenerate_boxes, name=f"annotations[{index}]")
                for index, (annotation, size) in enumerate(zip(annotations, sizes, strict=True))
            ]
        except ValueError as error:
            kind = str(AnnotationFormat(self.format).value).removeprefix("coco_")
            raise ValueError(f"Invalid COCO {kind} annotations: {error}") from error

    def _fit_target(self, target: Target, size: Size, padded: Size | None) -> Target:
        """Do to a target what was done to its image."""
        target = resize_target(target, size)
        if self.do_convert_annotations:
            target = relative_target(target)
        return target if padded is None else pad_target(target, padded)

    def _output(self, data: dict[str, Any]) -> DetrBatch:
        """Bring the results into the layout, library and place that were asked for."""
        library = str(getattr(self.return_tensors, "value", self.return_tensors) or "pt")
        if library not in ("pt", "np"):
            raise ValueError(f"return_tensors must be pt or np, got {library!r}")
        values = data["pixel_values"]
        if isinstance(values, list) and self.return_tensors is not None:
            raise ValueError("images of different sizes do not fit into one tensor without do_pad=True")
        if str(getattr(self.data_format, "value", self.data_format)) == "channels_last":
            data["pixel_values"] = (
                [value.permute(1, 2, 0) for value in values]
                if isinstance(values, list)
                else values.permute(0, 2, 3, 1).contiguous()
            )

        def converted(value: Any) -> Any:
            if isinstance(value, list):
                return [converted(item) for item in value]
            if isinstance(value, dict):
                return BatchFeature({key: converted(item) for key, item in value.items()})
            return value.numpy() if library == "np" else value.to(self.device or value.device)

        return DetrBatch({key: converted(value) for key, value in data.items()})


def _flat(images: Any) -> Iterator[Any]:
    """The single images of nested lists, batches included."""
    if isinstance(images, (list, tuple)) or (isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4):
        for image in images:
            yield from _flat(image)
    else:
        yield images
