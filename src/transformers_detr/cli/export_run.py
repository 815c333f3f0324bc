"""What `detr export` is made of: loading, exporting aside, comparing, reporting."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

from transformers_detr import __version__
from transformers_detr.atomic_io import atomic_folder
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.onnx_quantization import Feed
from transformers_detr.backends.registry import Backend, Precision, exported_files
from transformers_detr.data.synthetic import CLASS_NAMES, make_scene, write_scenes
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.evaluation_data import EvaluationData, class_names, select_data
from transformers_detr.evaluation.predict import plan_batches, predict
from transformers_detr.export.export_folder import with_fixed_size, write_export_folder
from transformers_detr.export.export_report import REPORT_TABLE, Compared, summary_rows, write_report
from transformers_detr.export.parity import Yardstick, conditions, difference
from transformers_detr.hub.loading import load_by_architecture
from transformers_detr.inference.sources import gather_sources
from transformers_detr.model.image_io_detr import load_image
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

__all__ = ["REPORT_TABLE", "Request", "run", "summary_rows"]

SCENES_TO_COMPARE, SCENES_TO_SCORE, SCENE_SERIES = 6, 64, 7_000
MOST_PICTURES = 16

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the user asked for; see `detr export`."""

    model: str
    revision: str | None
    formats: tuple[Backend, ...]
    precisions: tuple[Precision, ...]
    fixed_size: tuple[int, int] | None
    calibration: Path | None
    calibration_pictures: int
    images: tuple[str, ...]
    data: str | None
    split: str | None
    limit: int


def run(request: Request, output: Path, notify: Notify) -> tuple[list[Compared], float | None]:
    """Export into a folder that appears when all is done.

    Returns:
        How each graph compares, and PyTorch's AP, if there were labeled pictures.

    Raises:
        FileExistsError: The folder exists.
        ImportError: A package is missing.
        OSError: The model or a picture cannot be read.
        ValueError: A picture or dataset cannot be used, or the request does not go together.
    """
    with atomic_folder(output) as folder, tempfile.TemporaryDirectory() as aside:
        disable_progress_bar()  # of reading weights
        model, processor = load_by_architecture(request.model, revision=request.revision, dtype=torch.float32)
        labeled = _labeled(request, model, Path(aside))
        pictures = _pictures(request, labeled)
        feeds = partial(_feeds, request, processor) if request.calibration else None
        write_export_folder(
            folder,
            model,
            processor,
            request.formats,
            request.precisions,
            fixed_size=request.fixed_size,
            calibration=feeds,
            progress=notify,
        )
        exported_processor = DetrImageProcessor.from_pretrained(folder)
        views = conditions(exported_processor, pictures, request.fixed_size)
        yardstick = Yardstick(model)
        compared = []
        for (backend, precision), path in exported_files(folder).items():
            notify(f"comparing {backend} {precision} with PyTorch")
            exported, _ = open_exported(folder, backend, precision)
            megabytes = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*")) / 1e6
            differences = [difference(yardstick, exported, view) for view in views]
            ap = _average_precision(exported, exported_processor, labeled)
            compared.append(Compared(backend, precision, megabytes, differences, ap))
        torch_ap = _average_precision(model, exported_processor, labeled)
        write_report(folder, _about(request, pictures, labeled), compared, torch_ap)
    return compared, torch_ap


def _labeled(request: Request, model: DetrPreTrainedModel, aside: Path) -> EvaluationData | None:
    """The pictures to score on: the user's, or generated scenes for a model that knows their classes."""
    names = class_names(model)
    if request.data is not None:
        return select_data(request.data, request.split, request.limit, names)
    if not set(CLASS_NAMES) <= set(names):
        return None
    return select_data(str(write_scenes(aside / "scenes", SCENES_TO_SCORE, SCENE_SERIES)), "train", None, names)


def _pictures(request: Request, labeled: EvaluationData | None) -> list[Image.Image]:
    if request.images:
        sources = gather_sources(request.images, recursive=False)
        return [load_image(source.location) for source in sources[:MOST_PICTURES]]
    if request.data is not None and labeled is not None:
        return [image.load_image() for image in labeled.images[:SCENES_TO_COMPARE]]
    return [make_scene(SCENE_SERIES + 1, index).image for index in range(SCENES_TO_COMPARE)]


def _feeds(request: Request, processor: DetrImageProcessor) -> Iterator[Feed]:
    """Pictures to calibrate with, one by one."""
    if request.fixed_size is not None:
        processor = with_fixed_size(processor, request.fixed_size)
    sources = gather_sources([str(request.calibration)], recursive=True)
    for source in islice(sources, request.calibration_pictures):
        inputs = processor(images=load_image(source.location), return_tensors="pt")
        yield {name: inputs[name].numpy() for name in ("pixel_values", "pixel_mask")}


def _average_precision(model: Any, processor: DetrImageProcessor, labeled: EvaluationData | None) -> float | None:
    if labeled is None:
        return None
    batches = plan_batches(labeled.images, batch_size=4, equal_sizes=not model.supports_exact_padding)
    found = [prediction for batch in predict(model, processor, batches) for prediction in batch]
    return float(score_detections(labeled.ground_truth, found).summary["AP"])


def _about(request: Request, pictures: Sequence[Image.Image], labeled: EvaluationData | None) -> dict[str, Any]:
    """What the report says about the comparison."""
    shapes = {f"{picture.height}×{picture.width}" for picture in pictures}
    return {
        "model": request.model,
        "transformers-detr": __version__,
        "torch": torch.__version__,
        "fixed size": "none, all sizes" if request.fixed_size is None else "×".join(map(str, request.fixed_size)),
        "compared on": f"{len(pictures)} {'given' if request.images else 'generated or labeled'} pictures of "
        f"{len(shapes)} sizes (height × width: {', '.join(sorted(shapes))})",
        "calibrated on": None if request.calibration is None else str(request.calibration),
        "scored on": None if labeled is None else f"{len(labeled.images)} pictures of {request.data or 'scenes'}",
    }
