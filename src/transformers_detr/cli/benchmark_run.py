"""What `detr benchmark` is made of: the options of a machine, timed in turns and compared."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.onnx_quantization import Feed
from transformers_detr.backends.registry import Backend, Precision, exported_files
from transformers_detr.data.synthetic import make_scene
from transformers_detr.export.export_folder import write_export_folder
from transformers_detr.export.interleaved_timing import time_interleaved
from transformers_detr.export.parity import Condition, Difference, Yardstick, difference
from transformers_detr.hub.loading import load_by_architecture
from transformers_detr.inference.sources import gather_sources
from transformers_detr.model.image_io_detr import load_image
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.padding_detr import largest_size, real_pixels, stack_padded

EAGER = "PyTorch"
SCENE_SIZE = (480, 640)
CALIBRATION_SCENES = 16
_NEEDS: dict[Backend, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}

_FLAGS = {"fp32": "", "fp16": " --fp16", "int8": " --int8 --calibration …"}

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """One option.

    Attributes:
        name: What it is called.
        milliseconds: Median time of a picture; None if it could not be run.
        difference: Of its answers from PyTorch's.
        note: What else there is to say.
    """

    name: str
    milliseconds: float | None
    difference: Difference | None
    note: str = ""


class _Compiled:
    """A compiled model that is called as the model it was made of."""

    def __init__(self, model: Any):
        self.supports_exact_padding = model.supports_exact_padding
        self.device = model.device
        self.run = torch.compile(model, dynamic=True)

    def __call__(self, **inputs: Any) -> Any:
        return self.run(**inputs)


def run(
    model_name: str,
    revision: str | None,
    *,
    pictures: tuple[str, ...],
    batch_size: int,
    repeats: int,
    threads: int | None,
    exported: Path | None,
    compiled: bool,
    notify: Notify,
) -> list[Result]:
    """Measure every option; PyTorch comes first.

    Raises:
        OSError: The model or a picture cannot be read.
        ValueError: A picture cannot be used.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    disable_progress_bar()  # of reading weights
    model, processor = load_by_architecture(model_name, revision=revision, dtype=torch.float32)
    images = [make_scene(0, 1, SCENE_SIZE).image]
    if pictures:
        images = [load_image(source.location) for source in gather_sources(pictures, recursive=False)]
    chosen = [images[index % len(images)] for index in range(batch_size)]
    pixels = [processor(images=image, do_pad=False, return_tensors="pt")["pixel_values"][0] for image in chosen]
    sizes = [(image.height, image.width) for image in chosen]
    models: dict[str, Any] = {EAGER: model}
    failed: list[Result] = []
    if compiled:
        notify("compiling")
        _try("PyTorch compiled", lambda: _warm(_Compiled(model), pixels), models, failed)
    with tempfile.TemporaryDirectory() as aside:
        folder = exported or Path(aside, "exported")
        if exported is None:
            folder.mkdir()
            failed += _export(model, processor, folder, notify)
        for backend, precision in exported_files(folder):
            notify(f"loading {backend} {precision}")
            name = f"{backend} {precision}"
            _try(name, partial(_open, folder, backend, precision), models, failed)
        differences, yardstick = {}, Yardstick(model)
        alone = Condition("alone", [[image] for image in pixels], sizes)
        for name, option in models.items():
            notify(f"comparing {name}")
            differences[name] = difference(yardstick, option, alone)
        notify("timing")
        seconds = time_interleaved({name: _job(option, pixels) for name, option in models.items()}, repeats)
    measured = [
        Result(
            name,
            1000 * statistics.median(seconds[name]) / batch_size,
            differences[name],
            "" if differences[name].within_tolerance else "other answers",
        )
        for name in models
    ]
    return measured + failed


def advice(results: list[Result]) -> str:
    """Which option to use, in words."""
    ran = [(one.milliseconds, one) for one in results if one.milliseconds is not None]
    same = [(time_, one) for time_, one in ran if one.difference is not None and one.difference.within_tolerance]
    best_time, best = min(same, key=lambda pair: pair[0])
    lines = [f"Use {best.name}: the fastest with PyTorch's answers.{_how(best.name)}"]
    fastest_time, fastest = min(ran, key=lambda pair: pair[0])
    if fastest_time < best_time:
        lines.append(
            f"{fastest.name} is {best_time / fastest_time:.2f} times faster still, with other answers: measure what it "
            f"costs with `{_export_command(fastest.name)} --data …` first."
        )
    return "\n".join(lines)


def _how(name: str) -> str:
    backend, _, precision = name.partition(" ")
    if backend not in _NEEDS:
        return ""
    choice = f"backend={backend!r}" + ("" if precision == "fp32" else f", precision={precision!r}")
    return f" `{_export_command(name)}`, then Detector.from_pretrained(DIR, {choice})."


def _export_command(name: str) -> str:
    """What makes the graph of an option."""
    backend, _, precision = name.partition(" ")
    return f"detr export --format {backend}{_FLAGS[precision]}"


def _try(name: str, make: Callable[[], Any], models: dict[str, Any], failed: list[Result]) -> None:
    try:
        models[name] = make()
    except Exception as error:  # compilers and engines fail in ways of their own, which say nothing of the others
        failed.append(Result(name, None, None, f"failed: {str(error).strip().splitlines()[0][:100]}"))


def _open(folder: Path, backend: Backend, precision: Precision) -> Any:
    return open_exported(folder, backend, precision)[0]


def _warm(model: Any, pixels: list[Tensor]) -> Any:
    _job(model, pixels)()
    return model


def _export(model: Any, processor: DetrImageProcessor, folder: Path, notify: Notify) -> list[Result]:
    """Export for the engines that are installed; the others are reported."""
    usable = [backend for backend, names in _NEEDS.items() if all(find_spec(name) for name in names)]
    hint = "not installed: pip install 'transformers-detr[export]'"
    missing = [Result(f"{backend} fp32", None, None, hint) for backend in _NEEDS if backend not in usable]
    if usable:
        precisions: Any = ("fp32", "int8") if find_spec("onnxruntime") else ("fp32",)
        write_export_folder(
            folder, model, processor, usable, precisions, calibration=lambda: _scene_feeds(processor), progress=notify
        )
    return missing


def _scene_feeds(processor: DetrImageProcessor) -> Iterator[Feed]:
    for index in range(CALIBRATION_SCENES):
        inputs = processor(images=make_scene(1, index).image, return_tensors="pt")
        yield {name: inputs[name].numpy() for name in ("pixel_values", "pixel_mask")}


def _job(model: Any, pixels: list[Tensor]) -> Callable[[], Any]:
    """One run over a batch."""
    shapes = [(image.shape[1], image.shape[2]) for image in pixels]
    padded = largest_size(shapes)
    batch = stack_padded(pixels, padded)
    mask = None if set(shapes) == {padded} else real_pixels(shapes, padded)
    exact = mask is not None and model.supports_exact_padding

    def job() -> Any:
        with torch.inference_mode():
            return model(pixel_values=batch, pixel_mask=mask, exact_padding=exact)

    return job
