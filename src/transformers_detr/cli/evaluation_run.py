"""What `detr evaluate` is made of: choosing images, loading a model, predicting into a folder, scoring."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import transformers
from transformers.utils.logging import disable_progress_bar

from transformers_detr import __version__
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.registry import Backend, Precision
from transformers_detr.data.findings import Finding, raise_finding
from transformers_detr.evaluation.distributed import leave_processes, process_number
from transformers_detr.evaluation.evaluation_data import EvaluationData, select_data
from transformers_detr.evaluation.panoptic_quality import PanopticQuality
from transformers_detr.evaluation.predict import EvaluationImage, detections, plan_batches, predict, predict_to_log
from transformers_detr.evaluation.prediction_writer import PredictionLog, read_settings
from transformers_detr.evaluation.predictions import ImagePrediction, read_predictions
from transformers_detr.evaluation.segmentation_predictions import read_panoptic_truth, score_panoptic, segmentations
from transformers_detr.hub.loading import load_by_architecture
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.resize_detr import SizeDict

PANOPTIC_FOLDER = "panoptic"
"""Folder beside the predictions file for the pictures of segment ids."""


@dataclass(frozen=True)
class Inference:
    """A model, and how it is to be run.

    Attributes:
        model: Name on the Hub, or folder.
        revision: Branch, tag or commit on the Hub.
        dtype: What to compute in; None takes that of the stored weights.
        device: None takes an accelerator if there is one.
        size: Shorter side that images are resized to, the longest edge in proportion; None leaves it to the model.
        batch_size: Images at once.
        padding: "exact" or "original".
        backend: What runs an exported model; None is PyTorch with the weights.
        precision: Which of the files of the backend.
    """

    model: str
    revision: str | None
    dtype: str | None
    device: str | None
    size: int | None
    batch_size: int
    padding: str
    backend: Backend | None = None
    precision: Precision = "fp32"

    def load(self) -> tuple[Any, DetrImageProcessor]:
        """Load the detection or segmentation model and its image processor.

        Raises:
            LoadingError: The model cannot be loaded.
            ValueError: The device cannot be used.
        """
        model, processor = self._open() if self.backend is None else self._open_exported(self.backend)
        if self.size is not None:
            processor.size = _scaled(processor.size, self.size)
        return model, processor

    def _open_exported(self, backend: Backend) -> tuple[Any, DetrImageProcessor]:
        if self.dtype is not None or self.padding != "exact":
            raise ValueError("an exported model has its own dtype and padding: leave out --dtype and --padding")
        return open_exported(self.model, backend, self.precision, device=self.device or "cpu", revision=self.revision)

    def _open(self) -> tuple[Any, DetrImageProcessor]:
        disable_progress_bar()  # of reading weights
        model, processor = load_by_architecture(self.model, revision=self.revision, dtype=self.dtype)
        device = self.device or _default_device()
        try:
            return model.to(device), processor
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error

    def predict(
        self,
        model: Any,
        processor: DetrImageProcessor,
        chosen: EvaluationData,
        folder: Path,
        resume: bool,
        progress: Callable[[int], None],
    ) -> tuple[list[ImagePrediction], dict[str, Any]]:
        """Predict all images into a folder, or those that are left, and read the predictions back.

        Returns:
            The predictions, and the settings that they were made with.

        Raises:
            ValueError: The folder holds a run and `resume` is False, or one with other settings.
        """
        settings = {
            "version": __version__,
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "size": dict(processor.size),
            "batch_size": self.batch_size,
            "padding": self.padding,
            "backend": self.backend,
            "precision": self.precision if self.backend else None,
            "num_queries": model.config.num_queries,
            "data": chosen.dataset.name,
            "split": chosen.split,
            "images": len(chosen.images),
            "class_names": list(chosen.dataset.class_names),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        collect = detections
        if DetrForSegmentation.__name__ in (model.config.architectures or ()):
            stuff = model.config.label_ids_to_fuse or ()
            collect = partial(segmentations, folder=folder / PANOPTIC_FOLDER, stuff=stuff)
        log = PredictionLog(folder, settings, resume)
        predict_batches = partial(predict, model, processor, exact_padding=self.padding == "exact", collect=collect)
        predict_to_log(log, self.batches(model, chosen), predict_batches, progress)
        return list(read_predictions(log.path)), settings

    def batches(self, model: Any, chosen: EvaluationData) -> list[list[EvaluationImage]]:
        """Batches of similar shape; of equal size where the backbone does not allow exact padding."""
        equal_sizes = self.padding == "exact" and not model.supports_exact_padding
        return plan_batches(chosen.images, self.batch_size, equal_sizes)


def read_run(
    file: Path, data: str, split: str | None, limit: int | None
) -> tuple[EvaluationData, list[ImagePrediction], dict[str, Any]]:
    """Read a predictions file and the ground truth of its images, which need not be there themselves.

    COCO results bear COCO's category ids; the predictions of a run bear the class ids of its model, whose names
    are among its settings.

    Returns:
        The images, the predictions of those images, and the settings of the run.
    """
    settings = read_settings(file)
    names = settings.get("class_names")
    chosen = select_data(data, split, limit, names, keep_category_ids=not settings, report=_forgive_missing_images)
    ids = {image.id for image in chosen.images}
    found = list(read_predictions(file))
    found = [prediction for prediction in found if limit is None or prediction.image_id in ids]
    place = {"predictions": str(file), "data": chosen.dataset.name, "split": chosen.split, "images": len(ids)}
    return chosen, found, {**settings, **place}


def measure_panoptic(
    chosen: EvaluationData, predictions: Sequence[ImagePrediction], folder: Path, file: Path | None
) -> tuple[PanopticQuality | None, str | None]:
    """Panoptic quality, where segments were predicted and the true ones are at hand.

    Args:
        chosen: The images.
        predictions: Their predictions.
        folder: Where the predictions file lies.
        file: COCO's panoptic JSON; None looks for `panoptic_*.json` beside `instances_*.json`.

    Returns:
        The quality; and what to say of predicted segments that were not compared, None if all were.

    Raises:
        ValueError: `file` was given, but no segments were predicted, or none of its images are those of the dataset.
    """
    if not any(prediction.panoptic for prediction in predictions):
        if file is not None:
            raise ValueError(f"{file}: there are no segments to compare with it; the model detects boxes only")
        return None, None
    source = chosen.images[0].source
    beside = source.with_name(source.name.replace("instances", "panoptic"))
    if file is None and (beside == source or not beside.exists()):
        looked_for = f"there is no {beside.name} beside {source.name}" if beside != source else "none was named"
        return None, f"panoptic quality was not measured: {looked_for}; give COCO's panoptic JSON with --panoptic"
    truth = read_panoptic_truth(file or beside, chosen.label_of)
    annotations = {image.id: truth.annotations[image.id] for image in chosen.images if image.id in truth.annotations}
    if not annotations:
        raise ValueError(f"{file or beside}: it has none of the images of {source}")
    missing = len(chosen.images) - len(annotations)
    note = f"panoptic quality leaves out {missing} images, of which {(file or beside).name} says nothing"
    quality = score_panoptic(replace(truth, annotations=annotations), predictions, folder / PANOPTIC_FOLDER)
    return quality, note if missing else None


def _forgive_missing_images(finding: Finding) -> None:
    if finding.code != "image-missing":
        raise_finding(finding)


@contextmanager
def processes() -> Iterator[int]:
    """Join the processes that torchrun started, if it did; gives the number of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield process_number()[0]
        return
    torch.distributed.init_process_group("gloo")  # only predictions on disk are exchanged
    try:
        yield process_number()[0]
    finally:
        leave_processes()


def _scaled(size: SizeDict, shortest_edge: int) -> SizeDict:
    """A size with another shortest edge, and the longest one in proportion."""
    if set(size) != {"shortest_edge", "longest_edge"}:
        raise ValueError(f"a size for images of this model is given by {', '.join(size)}, not by its shortest edge")
    longest_edge = round(size["longest_edge"] * shortest_edge / size["shortest_edge"])
    return SizeDict(shortest_edge=shortest_edge, longest_edge=longest_edge)


def _default_device() -> str:
    """The accelerator that belongs to this process, or the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if accelerator is None else f"{accelerator.type}:{os.environ.get('LOCAL_RANK', '0')}"
