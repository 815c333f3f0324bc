"""Evaluate a model, or a predictions file, on a labeled dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedModel

from transformers_detr import __version__
from transformers_detr.backends.exported_model import ExportedModel
from transformers_detr.backends.registry import Backend, Precision
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import Finding, raise_finding
from transformers_detr.evaluation import Padding
from transformers_detr.evaluation.distributed import own_share
from transformers_detr.evaluation.evaluation_data import EvaluationData, select_data
from transformers_detr.evaluation.evaluation_model import ModelOptions, evaluation_mode, makes_masks
from transformers_detr.evaluation.evaluation_result import EvaluationResult
from transformers_detr.evaluation.padding_check import PaddingDifference, padding_differences
from transformers_detr.evaluation.predict import detections, plan_batches, predict, predict_to_file
from transformers_detr.evaluation.predictions import EvaluationImage, ImagePrediction, match_images, read_predictions
from transformers_detr.evaluation.scoring import evaluate_predictions
from transformers_detr.evaluation.segmentation_predictions import PANOPTIC_FOLDER, measure_panoptic, segmentations
from transformers_detr.inference.prediction_writer import PredictionWriter, process_number
from transformers_detr.inference.predictions import class_names, read_header
from transformers_detr.inference.predictor import Predictor
from transformers_detr.model.image_processing_detr import DetrImageProcessor

Progress = Callable[[str, int, int], None]
"""Callback with the stage and this process's numbers of finished images and of all images."""

COCO_QUERIES = 100
"""COCO's limit of detections per image and class."""


def evaluate(
    model: str | Path | PreTrainedModel | ExportedModel | Predictor[Any] | None = None,
    data: str | Path | DetectionDataset | Sequence[Any] | None = None,
    *,
    predictions: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    batch_size: int = 4,
    padding: Padding = "exact",
    check_padding: bool = False,
    max_detections: int | Literal["queries"] = COCO_QUERIES,
    panoptic: str | Path | None = None,
    size: int | None = None,
    image_processor: DetrImageProcessor | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    backend: Backend | None = None,
    precision: Precision | None = None,
    revision: str | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> EvaluationResult:
    """Measure average precision, and panoptic quality, on a labeled dataset.

    Every query counts, boxes keep their fractions, and no score threshold is applied, as for the published numbers.
    Processes that share a `torch.distributed` group share the work; each of them gets the result.

    Args:
        model: Hub name, folder, loaded model, `Detector` or `Segmenter`. A loaded model stays on its device, with its
            dtype.
        data: Split of a dataset (`dataset.split("val")`), `DetectionDataset`, folder, annotation file or Hub name. It
            must name its classes as the model does; their numbers may differ.
        predictions: Score this file instead of a model: `predictions.jsonl` or COCO results (`.json`). COCO results
            hold COCO's category ids; name the dataset by its path, so that its classes keep these ids.
        split: Split to evaluate on; None takes "val", or the only split.
        limit: Evaluate only the first `limit` images.
        output_dir: Folder for `predictions.jsonl`, written as the run proceeds; None keeps no file.
        resume: Continue the run in `output_dir`.
        batch_size: Images per batch.
        padding: "exact" gives the same result at any batch size; "original" pads like the original implementation.
        check_padding: Compare each image alone and in its batch, under both paddings.
        max_detections: Detections that count per image and class, best first; "queries" takes the number of the
            model's queries, at least 100.
        panoptic: COCO's panoptic JSON; None looks for `panoptic_*.json` beside `instances_*.json`.
        size: Resize the shorter side to `size` pixels; None takes the size of the image processor.
        image_processor: Image processor of a loaded model; None loads it from the folder that the model came from.
        device: Device of a model given by name; None takes an accelerator if available.
        dtype: Type to compute in for a model given by name; None keeps the type of the stored weights.
        backend: "onnx", "openvino" or "torch": run an exported model given by name.
        precision: Precision of the exported graph; None takes "fp32".
        revision: Branch, tag or commit of the model on the Hub.
        progress: Called with the stage ("Predicting" or "Comparing paddings"), the images finished and their total.

    Returns:
        The result; `result.summary["AP"]` is COCO's average precision of the boxes.

    Raises:
        DatasetError: The dataset cannot be read, or has a class that the model does not know.
        LoadingError: The model cannot be loaded.
        OSError: A file cannot be read or written.
        TypeError: `model` is not a DETR model of this package.
        ValueError: Arguments contradict each other or are out of range, `output_dir` holds another run, or the
            predictions do not fit the dataset.
    """
    if data is None or (model is None) == (predictions is None):
        raise ValueError("evaluate needs data, and either a model or predictions")
    if max_detections != "queries" and max_detections <= 10:
        raise ValueError(f"max_detections must be 'queries' or above 10 (COCO's second count), got {max_detections}")
    temporary = tempfile.TemporaryDirectory() if output_dir is None and predictions is None else nullcontext("")
    differences = None
    with temporary as folder_name:
        if predictions is not None:
            folder = Path(predictions).parent
            chosen, found, settings = _read_run(Path(predictions), data, split, limit)
        else:
            folder = Path(output_dir or folder_name)
            if output_dir is None and process_number()[1] > 1:
                raise ValueError("several processes need output_dir, through which they exchange predictions")
            loading = ModelOptions(image_processor, device, dtype, backend, precision, revision)
            run = _Run(*loading.load(model, size, padding, check_padding), padding, batch_size, progress)
            chosen = select_data(data, split, limit, class_names(run.model))
            settings = {**run.settings(chosen), **loading.settings()}
            with evaluation_mode(run.model):
                found = run.predict(chosen, folder, settings, resume)
                if check_padding and process_number()[0] == 0:
                    differences = run.compare_paddings(chosen)
                    settings["padding_check"] = {name: asdict(value) for name, value in differences.items()}
        limit_ = _detection_limit(max_detections, settings)
        quality, note = measure_panoptic(chosen, found, folder, None if panoptic is None else Path(panoptic))
        evaluation = evaluate_predictions(chosen.ground_truth, found, limit_, quality)
    missing = settings.pop("unpredicted", 0)
    missing_note = (
        f"{missing} images have no prediction; each counts as an image without detections" if missing else None
    )
    notes = [text for text in (note, missing_note, _threshold_note(settings)) if text is not None]
    return EvaluationResult(evaluation, found, chosen, settings, notes, differences)


@dataclass(frozen=True)
class _Run:
    """A loaded model with its options."""

    model: Any
    processor: DetrImageProcessor
    name: str
    padding: Padding
    batch_size: int
    progress: Progress

    def settings(self, chosen: EvaluationData) -> dict[str, Any]:
        """Return the settings that the predictions depend on."""
        return {
            "version": __version__,
            "model": self.name,
            "size": dict(self.processor.size),
            "batch_size": self.batch_size,
            "padding": self.padding,
            "num_queries": self.model.config.num_queries,
            "data": chosen.dataset.name,
            "split": chosen.split,
            "images": len(chosen.images),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def predict(
        self, chosen: EvaluationData, folder: Path, settings: dict[str, Any], resume: bool
    ) -> list[ImagePrediction]:
        """Predict the images that `folder` does not hold yet; return the predictions of all."""
        collect = detections
        if makes_masks(self.model):
            stuff = self.model.config.label_ids_to_fuse or ()
            collect = partial(segmentations, folder=folder / PANOPTIC_FOLDER, stuff=stuff)
        batches = self._batches(chosen)
        writer = PredictionWriter(folder, settings, resume=resume)
        writer.set_model(self.model)
        predict_batches = partial(
            predict, self.model, self.processor, exact_padding=self.padding == "exact", collect=collect
        )
        counted = _Counter(self.progress, "Predicting", sum(map(len, own_share(batches))))
        predict_to_file(writer, self.model.config.id2label, batches, predict_batches, counted)
        return list(read_predictions(writer.path))

    def compare_paddings(self, chosen: EvaluationData) -> dict[Padding, PaddingDifference]:
        """Compare each image alone and in its batch."""
        counted = _Counter(self.progress, "Comparing paddings", len(chosen.images))
        return padding_differences(self.model, self.processor, self._batches(chosen), counted)

    def _batches(self, chosen: EvaluationData) -> list[list[EvaluationImage]]:
        """Group images of similar shape, or of equal size if the backbone does not support exact padding."""
        equal_sizes = self.padding == "exact" and not self.model.supports_exact_padding
        return plan_batches(chosen.images, self.batch_size, equal_sizes)


class _Counter:
    """Counter of the images that a stage has finished."""

    def __init__(self, progress: Progress, stage: str, total: int):
        self._progress, self._stage, self._total = progress, stage, total
        self._done = 0

    def __call__(self, images: int) -> None:
        self._done += images
        self._progress(self._stage, self._done, self._total)


def _read_run(
    file: Path, data: Any, split: str | None, limit: int | None
) -> tuple[EvaluationData, list[ImagePrediction], dict[str, Any]]:
    """Read a predictions file and the ground truth of its images, whose files need not exist.

    COCO results hold COCO's category ids. Records hold the class ids of the model whose class names the header lists.
    The records of `evaluate` hold the image ids of the dataset; those of `detr detect` are matched by `uri`.
    """
    header = read_header(file) if file.suffix == ".jsonl" else None
    names = None if header is None else header.class_names or None
    chosen = select_data(data, split, limit, names, keep_category_ids=names is None, report=_ignore_missing_images)
    settings = {} if header is None else {"model": header.model, **header.settings}
    ids = {image.id for image in chosen.images}
    if header is None or "data" in settings:
        found = list(read_predictions(file))
    else:
        found = list(read_predictions(file, match_images(chosen.images)))
        if not found:
            raise ValueError(f"{file}: none of its images are in {chosen.dataset.name} ({chosen.split})")
        settings["unpredicted"] = len(ids - {prediction.image_id for prediction in found})
    found = [prediction for prediction in found if limit is None or prediction.image_id in ids]
    place = {"predictions": str(file), "data": chosen.dataset.name, "split": chosen.split, "images": len(ids)}
    return chosen, found, {**settings, **place}


def _ignore_missing_images(finding: Finding) -> None:
    if finding.code != "image-missing":
        raise_finding(finding)


def _threshold_note(settings: dict[str, Any]) -> str | None:
    threshold = settings.get("threshold")
    if not threshold or threshold <= 0:
        return None
    return (
        f"the predictions were made with the threshold {threshold:g}, which removed detections: AP is too low. "
        "Predict with the threshold 0 for a fair AP"
    )


def _detection_limit(limit: int | Literal["queries"], settings: dict[str, Any]) -> int:
    """Return the limit as a number; fewer queries than COCO's 100 keep COCO's limit, which they cannot reach."""
    if limit != "queries":
        return limit
    if "num_queries" not in settings:
        raise ValueError("max_detections 'queries': the predictions file does not say how many queries there were")
    return max(int(settings["num_queries"]), COCO_QUERIES)
