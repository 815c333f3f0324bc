"""Benchmark of the ways to run a model on this machine."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transformers_detr.atomic_io import atomic_file
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.onnx_quantization import Feed
from transformers_detr.backends.registry import BACKENDS, Backend, Precision, exported_files, missing_packages
from transformers_detr.data.synthetic import make_scene
from transformers_detr.export.export_folder import write_export_folder
from transformers_detr.export.export_workflow import Progress, load_for_export
from transformers_detr.export.interleaved_timing import time_interleaved
from transformers_detr.export.parity import Condition, Difference, Reference, difference
from transformers_detr.inference.predictor import Predictor
from transformers_detr.inference.sources import gather_sources
from transformers_detr.model.image_io_detr import load_pixels, pixels_size
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.padding_detr import pad_batch

PYTORCH = "PyTorch"
SCENE_SIZE = (480, 640)
CALIBRATION_SCENES = 16

_AUTOMATIC_BACKENDS: tuple[Backend, ...] = tuple(name for name in BACKENDS if name != "torch")
"""Backends to export to by default; PyTorch itself is always measured."""

_FLAGS = {"fp32": "", "fp16": " --fp16", "int8": " --int8 --calibration …"}


@dataclass(frozen=True)
class BenchmarkRow:
    """Measurement of one way to run the model.

    Attributes:
        name: "PyTorch", "PyTorch compiled", or a backend and a precision.
        milliseconds: Median time per image; None if it could not be run.
        difference: Difference of its outputs from PyTorch's.
        note: Why it could not be run, or that its results differ.
    """

    name: str
    milliseconds: float | None
    difference: Difference | None
    note: str = ""

    @property
    def agrees(self) -> bool:
        """True if the run succeeded and its results are within the tolerance of PyTorch's."""
        return self.milliseconds is not None and self.difference is not None and self.difference.within_tolerance


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark.

    Attributes:
        rows: One row for each way to run the model; PyTorch comes first.
    """

    rows: list[BenchmarkRow]

    @property
    def fastest(self) -> BenchmarkRow:
        """Fastest row whose results agree with PyTorch's."""
        return min((row for row in self.rows if row.agrees), key=lambda row: row.milliseconds or 0.0)

    @property
    def recommendation(self) -> str:
        """Recommendation for the user, as text."""
        best = self.fastest
        lines = [f"Use {best.name}: the fastest with the results of PyTorch.{_usage(best.name)}"]
        ran = [row for row in self.rows if row.milliseconds is not None]
        fastest = min(ran, key=lambda row: row.milliseconds or 0.0)
        if best.milliseconds and fastest.milliseconds and fastest.milliseconds < best.milliseconds:
            lines.append(
                f"{fastest.name} is {best.milliseconds / fastest.milliseconds:.2f} times faster still, but its results "
                f"differ: measure its AP with `{_export_command(fastest.name)} --data …` first."
            )
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write the rows as JSON."""
        with atomic_file(Path(path)) as partial_file:
            text = json.dumps([asdict(row) for row in self.rows], indent=2)
            partial_file.write_text(text + "\n", encoding="utf-8")


def benchmark_backends(
    model: str | Path | Predictor[Any],
    *,
    images: Sequence[str | Path] | None = None,
    batch_size: int = 1,
    repeats: int = 5,
    threads: int | None = None,
    exported: str | Path | None = None,
    compiled: bool = True,
    revision: str | None = None,
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Time a model in PyTorch and in the installed backends, on the CPU.

    The model alone is timed, without reading and resizing images. Runs are interleaved, so that a machine that slows
    down affects all alike. Outputs are compared with those of PyTorch.

    Args:
        model: Hub id, folder, name of the bundled model, or a loaded `Detector` or `Segmenter`.
        images: Files, folders, patterns or URLs of images to run on. None takes a generated one of 480×640.
        batch_size: Images in a batch.
        repeats: Timed runs of each way.
        threads: Number of CPU threads; None leaves PyTorch's setting.
        exported: Folder that `export_model` wrote. None exports to a temporary folder.
        compiled: Whether to try `torch.compile`, which takes a minute.
        revision: Branch, tag or commit of a model on the Hub.
        progress: Called with a description of each step.

    Returns:
        One row for each way to run the model, also for those that failed.

    Raises:
        LoadingError: The model cannot be loaded.
        OSError: An image cannot be found or read.
        ValueError: An image cannot be used.
    """
    progress = progress or (lambda step: None)
    torch_model, processor = load_for_export(model, revision)
    num_channels = torch_model.config.num_channels
    loaded = [make_scene(0, 1, SCENE_SIZE).pixels(num_channels)]
    if images:
        sources = gather_sources([str(one) for one in images], recursive=False)
        loaded = [load_pixels(source.location, num_channels) for source in sources]
    chosen = [loaded[index % len(loaded)] for index in range(batch_size)]
    pixels = [processor(images=image, do_pad=False, return_tensors="pt")["pixel_values"][0] for image in chosen]
    sizes = [pixels_size(image) for image in chosen]
    models: dict[str, Any] = {PYTORCH: torch_model}
    failed: list[BenchmarkRow] = []
    with _threads(threads), tempfile.TemporaryDirectory() as scratch:
        if compiled:
            progress("compiling")
            _try("PyTorch compiled", lambda: _warmed_up(_Compiled(torch_model), pixels), models, failed)
        folder = Path(exported or scratch)
        if exported is None:
            failed += _export(torch_model, processor, folder, progress)
        for backend, precision in exported_files(folder):
            progress(f"loading {backend} {precision}")
            _try(f"{backend} {precision}", partial(_open, folder, backend, precision), models, failed)
        return BenchmarkResult(_measure(models, pixels, sizes, repeats, progress) + failed)


def _measure(
    models: dict[str, Any],
    pixels: list[Tensor],
    sizes: list[tuple[int, int]],
    repeats: int,
    progress: Progress,
) -> list[BenchmarkRow]:
    """Compare models with the first one, and time them interleaved."""
    differences, reference = {}, Reference(models[PYTORCH])
    alone = Condition("alone", [[image] for image in pixels], sizes)
    for name, model in models.items():
        progress(f"comparing {name}")
        differences[name] = difference(reference, model, alone)
    progress("timing")
    seconds = time_interleaved({name: _run(model, pixels) for name, model in models.items()}, repeats)
    rows = []
    for name in models:
        note = "" if differences[name].within_tolerance else "results differ"
        milliseconds = 1000 * statistics.median(seconds[name]) / len(pixels)
        rows.append(BenchmarkRow(name, milliseconds, differences[name], note))
    return rows


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Set the number of CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Compiled:
    """Compiled model with the interface of the original."""

    def __init__(self, model: Any):
        self.supports_exact_padding = model.supports_exact_padding
        self.device = model.device
        self.run = torch.compile(model, dynamic=True)

    def __call__(self, **inputs: Any) -> Any:
        return self.run(**inputs)


def _try(name: str, make: Callable[[], Any], models: dict[str, Any], failed: list[BenchmarkRow]) -> None:
    try:
        models[name] = make()
    except Exception as error:  # compilers and runtimes fail in various ways; the other rows are measured anyway
        failed.append(BenchmarkRow(name, None, None, f"failed: {str(error).strip().splitlines()[0][:100]}"))


def _open(folder: Path, backend: Backend, precision: Precision) -> Any:
    return open_exported(folder, backend, precision)[0]


def _warmed_up(model: Any, pixels: list[Tensor]) -> Any:
    _run(model, pixels)()
    return model


def _export(model: Any, processor: DetrImageProcessor, folder: Path, progress: Progress) -> list[BenchmarkRow]:
    """Export for the installed backends; return rows for the others."""
    usable = [backend for backend in _AUTOMATIC_BACKENDS if not missing_packages(backend)]
    missing = [
        BenchmarkRow(f"{backend} fp32", None, None, f"not installed: pip install {' '.join(packages)}")
        for backend in _AUTOMATIC_BACKENDS
        if (packages := missing_packages(backend))
    ]
    if usable:
        quantizes = not missing_packages(usable[0], ("int8",))
        precisions: tuple[Precision, ...] = ("fp32", "int8") if quantizes else ("fp32",)
        feeds = partial(_scene_feeds, processor)
        write_export_folder(folder, model, processor, usable, precisions, calibration=feeds, progress=progress)
    return missing


def _scene_feeds(processor: DetrImageProcessor) -> Iterator[Feed]:
    for index in range(CALIBRATION_SCENES):
        inputs = processor(images=make_scene(1, index).pixels(processor.num_channels), return_tensors="pt")
        yield {name: inputs[name].numpy() for name in ("pixel_values", "pixel_mask")}


def _run(model: Any, pixels: list[Tensor]) -> Callable[[], Any]:
    """Return a function that runs a model once on a batch."""
    batch, mask = pad_batch(pixels)
    exact = mask is not None and model.supports_exact_padding

    def run() -> Any:
        with torch.inference_mode():
            return model(pixel_values=batch, pixel_mask=mask, exact_padding=exact)

    return run


def _usage(name: str) -> str:
    """Return the options that run a graph; empty for PyTorch."""
    backend, _, precision = name.partition(" ")
    if backend not in BACKENDS:
        return ""
    choice = f"backend={backend!r}" + ("" if precision == "fp32" else f", precision={precision!r}")
    return f" `{_export_command(name)}`, then Detector.from_pretrained(DIR, {choice})."


def _export_command(name: str) -> str:
    """Command that writes a graph."""
    backend, _, precision = name.partition(" ")
    return f"detr export --format {backend}{_FLAGS[precision]}"
