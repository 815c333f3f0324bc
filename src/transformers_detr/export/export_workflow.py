"""Export workflow: write graphs, compare them with PyTorch, and report the differences."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from transformers_detr.atomic_io import atomic_folder
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.onnx_quantization import Feed
from transformers_detr.backends.registry import Backend, Precision, exported_files
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import CLASS_NAMES, make_scene, write_scenes
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.evaluation_data import EvaluationData, select_data
from transformers_detr.evaluation.predict import plan_batches, predict
from transformers_detr.export.export_folder import check_formats, with_fixed_size, write_export_folder
from transformers_detr.export.export_report import REPORT_TABLE, GraphComparison, write_report
from transformers_detr.export.parity import Reference, conditions, difference
from transformers_detr.hub.loading import load_by_architecture
from transformers_detr.inference.predictions import class_names
from transformers_detr.inference.predictor import Predictor
from transformers_detr.inference.sources import gather_sources
from transformers_detr.model.image_io_detr import Pixels, load_pixels, pixels_size
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

SCENES_TO_COMPARE, SCENES_TO_SCORE, SCENE_SERIES = 6, 64, 7_000
MAX_COMPARED_IMAGES = 16
SMALLEST_FIXED_SIDE = 64

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportResult:
    """An exported folder and its comparison with PyTorch.

    Attributes:
        folder: The exported folder, for `Detector(folder, backend=…)`.
        files: Path of each graph, by (backend, precision).
        comparisons: Differences of each graph from PyTorch, file size and AP.
        torch_ap: AP of the PyTorch model on the labeled images (0–100); None without labeled images.
        report: The report as Markdown; the same as JSON is beside it.
    """

    folder: Path
    files: dict[tuple[Backend, Precision], Path]
    comparisons: list[GraphComparison]
    torch_ap: float | None
    report: Path

    @property
    def violations(self) -> list[str]:
        """Float32 graphs that differ from PyTorch by more than the tolerance, one line for each condition."""
        return [line for comparison in self.comparisons for line in comparison.violations]

    @property
    def passed(self) -> bool:
        """True if every float32 graph is within the tolerance."""
        return not self.violations


def export_model(
    model: str | Path | Predictor[Any],
    output_dir: str | Path,
    *,
    formats: Sequence[Backend] = ("onnx",),
    fp16: bool = False,
    int8: bool = False,
    calibration: str | Path | None = None,
    max_calibration_images: int = 64,
    size: tuple[int, int] | None = None,
    images: Sequence[str | Path] | None = None,
    data: str | Path | DetectionDataset | None = None,
    split: str | None = None,
    limit: int | None = 200,
    revision: str | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a model to other runtimes, and compare every graph with PyTorch.

    Batch size, height and width stay free, and the pixel mask is an input. The folder has the layout of transformers.js
    and appears once it is complete. Each graph is compared with the float32 PyTorch model on single images, in padded
    batches and at odd sizes, and by AP on labeled images.

    Args:
        model: Hub id, folder, name of the bundled model, or a loaded `Detector` or `Segmenter`.
        output_dir: Folder to create.
        formats: "onnx", "openvino", "torch".
        fp16: Whether to write float16 graphs too.
        int8: Whether to write 8-bit graphs too.
        calibration: Folder of images, searched recursively, to find 8-bit ranges of backbone and encoder with. None
            rounds only the weights of the transformer.
        max_calibration_images: Use the first images of `calibration` up to this number.
        size: The only (height, width) that the graphs take, to which images are padded; None leaves sizes free.
        images: Files, folders, patterns or URLs of images to compare on, of which the first 16 are used. None takes
            labeled images, or generated scenes.
        data: Labeled images to measure AP on. None takes generated scenes if the model knows their classes.
        split: Split of `data`; None takes "val", or the only split.
        limit: Use the first images of `data` up to this number.
        revision: Branch, tag or commit of a model on the Hub.
        progress: Called with a description of each step.

    Returns:
        The files and the comparison. A graph that violates the tolerance is reported there, not raised.

    Raises:
        FileExistsError: `output_dir` exists.
        ImportError: A package that a format needs is not installed.
        LoadingError: The model cannot be loaded.
        OSError: An image cannot be found or read.
        ValueError: An argument is not valid, or arguments contradict each other.
        DatasetError: The dataset cannot be read, or has classes that the model lacks.
    """
    precisions: tuple[Precision, ...] = ("fp32", *(("fp16",) if fp16 else ()), *(("int8",) if int8 else ()))
    check_formats(formats, precisions)
    if calibration is not None and not int8:
        raise ValueError("calibration needs int8=True")
    if size is not None and min(size) < SMALLEST_FIXED_SIDE:
        raise ValueError(f"size must be (height, width), each at least {SMALLEST_FIXED_SIDE}, got {size}")
    progress = progress or (lambda step: None)
    with atomic_folder(Path(output_dir)) as folder, tempfile.TemporaryDirectory() as scratch:
        torch_model, processor = load_for_export(model, revision)
        labeled = _labeled(data, split, limit, torch_model, Path(scratch))
        compared_on = _images(images, labeled if data is not None else None, processor.num_channels)
        feeds = None
        if calibration is not None:
            calibration_processor = processor if size is None else with_fixed_size(processor, size)
            feeds = partial(_feeds, calibration, max_calibration_images, calibration_processor)
        write_export_folder(
            folder, torch_model, processor, formats, precisions, fixed_size=size, calibration=feeds, progress=progress
        )
        comparisons, torch_ap = _compare(folder, torch_model, compared_on, size, labeled, progress)
        about = {
            "model": model.model.config.name_or_path if isinstance(model, Predictor) else str(model),
            "fixed size": "none, all sizes" if size is None else "×".join(map(str, size)),
            "compared on": _describe(compared_on, "given" if images else "labeled" if data else "generated"),
        }
        if calibration is not None:
            about["calibrated on"] = str(calibration)
        if labeled is not None:
            origin = "generated scenes" if data is None else f"images of {labeled.dataset.name}"
            about["scored on"] = f"{len(labeled.images)} {origin}"
        write_report(folder, about, comparisons, torch_ap)
    output = Path(output_dir)
    return ExportResult(output, exported_files(output), comparisons, torch_ap, output / REPORT_TABLE)


def load_for_export(
    model: str | Path | Predictor[Any], revision: str | None = None
) -> tuple[DetrPreTrainedModel, DetrImageProcessor]:
    """Load a PyTorch model for the CPU in float32, or copy the model of a predictor.

    Raises:
        LoadingError: The model cannot be loaded.
        ValueError: The predictor runs an exported model.
    """
    if not isinstance(model, Predictor):
        return load_by_architecture(model, revision=revision, dtype=torch.float32)
    if not isinstance(model.model, DetrPreTrainedModel):
        raise ValueError("model must be a PyTorch model, got an exported one")
    return copy.deepcopy(model.model).cpu().float().eval(), model.image_processor


def _labeled(
    data: str | Path | DetectionDataset | None,
    split: str | None,
    limit: int | None,
    model: DetrPreTrainedModel,
    scratch: Path,
) -> EvaluationData | None:
    """Return the images to score on: the given ones, or generated scenes for a model of their classes and channels."""
    names = class_names(model)
    if data is not None:
        return select_data(data, split, limit, names)
    if not set(CLASS_NAMES) <= set(names) or model.config.num_channels not in (1, 3):
        return None
    return select_data(write_scenes(scratch / "scenes", SCENES_TO_SCORE, SCENE_SERIES), "train", None, names)


def _images(images: Sequence[str | Path] | None, labeled: EvaluationData | None, num_channels: int) -> list[Pixels]:
    """Return the images to compare on."""
    if images:
        sources = gather_sources([str(one) for one in images], recursive=False)
        return [load_pixels(source.location, num_channels) for source in sources[:MAX_COMPARED_IMAGES]]
    if labeled is not None:
        return [image.load_pixels(num_channels) for image in labeled.images[:SCENES_TO_COMPARE]]
    return [make_scene(SCENE_SERIES + 1, index).pixels(num_channels) for index in range(SCENES_TO_COMPARE)]


def _feeds(folder: str | Path, limit: int, processor: DetrImageProcessor) -> Iterator[Feed]:
    """Yield the images to calibrate with, one by one."""
    for source in islice(gather_sources([str(folder)], recursive=True), limit):
        inputs = processor(images=load_pixels(source.location, processor.num_channels), return_tensors="pt")
        yield {name: inputs[name].numpy() for name in ("pixel_values", "pixel_mask")}


def _compare(
    folder: Path,
    model: DetrPreTrainedModel,
    images: Sequence[Pixels],
    size: tuple[int, int] | None,
    labeled: EvaluationData | None,
    progress: Progress,
) -> tuple[list[GraphComparison], float | None]:
    """Compare every graph of a folder with PyTorch; return the comparisons and PyTorch's AP."""
    processor = DetrImageProcessor.from_pretrained(folder)
    views = conditions(processor, images, size)
    reference = Reference(model)
    comparisons = []
    for (backend, precision), path in exported_files(folder).items():
        progress(f"comparing {backend} {precision} with PyTorch")
        exported, _ = open_exported(folder, backend, precision)
        megabytes = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6
        differences = [difference(reference, exported, view) for view in views]
        ap = _average_precision(exported, processor, labeled)
        comparisons.append(GraphComparison(backend, precision, megabytes, differences, ap))
    progress("scoring PyTorch")
    return comparisons, _average_precision(model, processor, labeled)


def _average_precision(model: Any, processor: DetrImageProcessor, labeled: EvaluationData | None) -> float | None:
    if labeled is None:
        return None
    batches = plan_batches(labeled.images, batch_size=4, equal_sizes=not model.supports_exact_padding)
    found = [prediction for batch in predict(model, processor, batches) for prediction in batch]
    return float(score_detections(labeled.ground_truth, found).summary["AP"])


def _describe(images: Sequence[Pixels], origin: str) -> str:
    sizes = sorted({"{}×{}".format(*pixels_size(image)) for image in images})
    return f"{len(images)} {origin} images of {len(sizes)} sizes (height × width: {', '.join(sizes)})"
