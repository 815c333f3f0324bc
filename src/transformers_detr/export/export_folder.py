"""Exported folder: configurations, and one graph for each format and precision."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from transformers_detr.backends.onnx_quantization import Feed
from transformers_detr.backends.registry import BACKENDS, REGISTRY, Backend, Precision, missing_packages, model_file
from transformers_detr.backends.traced_graph import ExportSource
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel


def write_export_folder(
    folder: Path,
    model: DetrPreTrainedModel,
    processor: DetrImageProcessor,
    formats: Sequence[Backend] = ("onnx",),
    precisions: Sequence[Precision] = ("fp32",),
    *,
    fixed_size: tuple[int, int] | None = None,
    calibration: Callable[[], Iterable[Feed]] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> None:
    """Write the files that `transformers_detr.backends` and transformers.js load, without comparing them.

    Args:
        folder: An existing, empty folder.
        model: For detection or segmentation.
        processor: Its image processor.
        formats: Names of backends.
        precisions: "fp32", "fp16", "int8"; each format gets those that it has.
        fixed_size: The only (height, width) that the graphs take, to which the stored processor then pads; None
            leaves sizes free.
        calibration: Returns batches to calibrate 8-bit ranges with; None rounds the weights of matrix products only.
        progress: Called with the next step.

    Raises:
        ImportError: A package that a format needs is not installed.
        ValueError: There is no such format, no format has one of the precisions, or torch cannot store the model.
    """
    check_formats(formats, precisions)
    _write_configurations(folder, model, processor, fixed_size)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = ExportSource(model, Path(scratch), fixed_size, calibration, progress)
        for precision in precisions:
            for backend in formats:
                if precision not in REGISTRY[backend].precisions:
                    continue
                path = model_file(folder, backend, precision)
                path.parent.mkdir(exist_ok=True)
                REGISTRY[backend].export(source, path, precision)


def check_formats(formats: Sequence[Backend], precisions: Sequence[Precision]) -> None:
    """Check that formats exist, have the precisions, and that their packages are installed.

    Raises:
        ImportError: A package is not installed.
        ValueError: There is no such format, or no format has one of the precisions.
    """
    if not formats or not set(formats) <= set(BACKENDS):
        raise ValueError(f"formats must be some of {', '.join(BACKENDS)}, got {', '.join(formats) or 'none'}")
    for precision in precisions:
        if not any(precision in REGISTRY[backend].precisions for backend in formats):
            having = ", ".join(name for name, entry in REGISTRY.items() if precision in entry.precisions)
            raise ValueError(f"format {', '.join(formats)} has no {precision}; {having} has")
    for backend in formats:
        if missing := missing_packages(backend, precisions):
            raise ImportError(f"format {backend} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def with_fixed_size(processor: DetrImageProcessor, size: tuple[int, int]) -> DetrImageProcessor:
    """Return a processor that fits images into one (height, width), and pads them to it."""
    height, width = size
    settings = {
        "size": {"max_height": height, "max_width": width},
        "pad_size": {"height": height, "width": width},
        "do_pad": True,
    }
    return DetrImageProcessor.from_dict(processor.to_dict() | settings)


def _write_configurations(
    folder: Path, model: DetrPreTrainedModel, processor: DetrImageProcessor, fixed_size: tuple[int, int] | None
) -> None:
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.use_pretrained_backbone = False
    config.exact_padding = model.supports_exact_padding  # as the graphs do
    config.save_pretrained(folder)
    (processor if fixed_size is None else with_fixed_size(processor, fixed_size)).save_pretrained(folder)
