"""The exported folder: configurations, and a graph for each format and precision that is asked for."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from transformers_detr.backends.registry import Backend, Precision, model_file
from transformers_detr.export.onnx_files import Feed, quantize_calibrated, quantize_weights, write_onnx
from transformers_detr.export.openvino_files import write_openvino
from transformers_detr.export.traced_graph import output_names, trace
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

Notify = Callable[[str], None]


def export_model(
    folder: Path,
    model: DetrPreTrainedModel,
    processor: DetrImageProcessor,
    formats: Sequence[Backend] = ("onnx",),
    precisions: Sequence[Precision] = ("fp32",),
    fixed_size: tuple[int, int] | None = None,
    feeds: Callable[[], Iterable[Feed]] | None = None,
    notify: Notify = lambda step: None,
) -> None:
    """Fill a folder with what `transformers_detr.backends` and transformers.js load.

    Args:
        folder: An empty folder.
        model: For detection or segmentation.
        processor: Its image processor.
        formats: "onnx", "openvino", "torch".
        precisions: "fp32", "fp16", "int8"; a program of torch is float32.
        fixed_size: Height and width of the only size that the graphs take, to which the stored processor then pads;
            None leaves sizes free.
        feeds: Batches to calibrate 8-bit ranges with; None rounds the weights of matrix products only.
        notify: Called with what is done next.

    Raises:
        ImportError: A package that a format needs is not installed.
        ValueError: A format does not have a precision, or torch cannot store the model.
    """
    if set(formats) == {"torch"} and set(precisions) != {"fp32"}:
        raise ValueError("fp16 and int8 are for the formats onnx and openvino; a torch program is float32")
    _write_configurations(folder, model, processor, fixed_size)
    names = output_names(model)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        others = Path(aside)  # ONNX files that only lead to OpenVINO's
        for precision in precisions:
            onnx_file = model_file(folder if "onnx" in formats else others, "onnx", precision)
            onnx_file.parent.mkdir(exist_ok=True)
            if precision == "int8":
                notify("rounding to 8 bits")
                source = model_file(onnx_file.parent.parent, "onnx", "fp32")
                if feeds is None:
                    quantize_weights(source, onnx_file)
                else:
                    quantize_calibrated(source, onnx_file, feeds())
            else:
                half = precision == "fp16"
                notify(f"tracing in {precision}")
                program = trace(model, torch.float16 if half else torch.float32, fixed_size)
                if "torch" in formats and not half:
                    _write_program(program, model_file(folder, "torch"))
                if set(formats) == {"torch"}:
                    continue
                notify(f"writing ONNX in {precision}")
                write_onnx(program, names, onnx_file, fixed_size)
            if "openvino" in formats:
                notify(f"writing OpenVINO in {precision}")
                path = model_file(folder, "openvino", precision)
                path.parent.mkdir(exist_ok=True)
                # OpenVINO rounds the weights of the float32 graph itself, and so can choose what to compute in.
                source = model_file(onnx_file.parent.parent, "onnx", "fp32") if precision == "fp16" else onnx_file
                write_openvino(source, path, half=precision == "fp16")


def _write_program(program: Any, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    try:
        torch.export.save(program, path)
    except Exception as error:  # of torch's own kinds, by what the backbone's library computes sizes with
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"torch.export cannot store this model with free sizes ({reason}); give --fixed-size, or use onnx"
        ) from error


def with_fixed_size(processor: DetrImageProcessor, size: tuple[int, int]) -> DetrImageProcessor:
    """A processor that fits pictures into one size, height and width, and pads them to it."""
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
    config.exact_padding = model.supports_exact_padding  # which is what the graphs do
    config.save_pretrained(folder)
    (processor if fixed_size is None else with_fixed_size(processor, fixed_size)).save_pretrained(folder)
