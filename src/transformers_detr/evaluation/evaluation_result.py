"""Result of `evaluate`: the numbers, what they were computed from, and the report that explains them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers_detr.atomic_io import atomic_file
from transformers_detr.evaluation import Padding
from transformers_detr.evaluation.evaluation_data import EvaluationData
from transformers_detr.evaluation.evaluation_report import class_rows, write_report
from transformers_detr.evaluation.model_index import Evidence, eval_results, model_index
from transformers_detr.evaluation.padding_check import PaddingDifference
from transformers_detr.evaluation.panoptic_quality import PanopticQuality
from transformers_detr.evaluation.predictions import ImagePrediction, to_coco_results
from transformers_detr.evaluation.published_comparison import Comparison, compare_with_published
from transformers_detr.evaluation.scoring import Evaluation


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Numbers of a model on a labeled dataset. AP, AR and panoptic quality range from 0 to 100; NaN means undefined.

    Attributes:
        evaluation: Everything measured, with the precision-recall curves and the match of each detection.
        predictions: The predictions of each image.
        data: The images and their objects.
        settings: How the predictions were made: model, size, padding, split, versions …
        notes: Warnings in words, such as detections that a threshold has removed.
        padding_differences: How much padding changes the outputs, by kind of padding; None if not checked.
    """

    evaluation: Evaluation = field(repr=False)
    predictions: list[ImagePrediction] = field(repr=False)
    data: EvaluationData = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    notes: list[str]
    padding_differences: dict[Padding, PaddingDifference] | None = None

    @property
    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers of the boxes: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl."""
        return self.evaluation.boxes.summary

    @property
    def masks(self) -> dict[str, float] | None:
        """COCO's twelve numbers of the masks; None without masks."""
        return None if self.evaluation.masks is None else self.evaluation.masks.summary

    @property
    def panoptic(self) -> PanopticQuality | None:
        """Panoptic quality; None without panoptic segments or their ground truth."""
        return self.evaluation.panoptic

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """One row per class: its average precision, and the threshold with the best F1."""
        return class_rows(self.evaluation)

    @property
    def unreadable(self) -> dict[int, str]:
        """Reason of each image that could not be predicted, by image id. Each counts as an image without detections."""
        return self.evaluation.unreadable

    @property
    def published(self) -> Comparison | None:
        """Comparison with the published numbers; None if the model is not a published checkpoint."""
        return compare_with_published(self.evaluation, self._model, str(self.settings.get("padding", "exact")))

    @property
    def _model(self) -> str:
        return str(self.settings.get("model", "predictions"))

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name} {self.summary[name]:.1f}" for name in ("AP", "AP50", "AP75"))
        images = f"{len(self.data.images)} images of {self.data.dataset.name} ({self.data.split})"
        return f"<EvaluationResult: {numbers}; {images}>"

    def save(
        self,
        folder: str | Path,
        *,
        threshold: float | None = None,
        dataset_name: str | None = None,
        dataset_revision: str | None = None,
        command: str | None = None,
    ) -> Path:
        """Write the report.

        The folder receives `report.html`, `metrics.json`, `per_class.csv`, `confusion_matrix.csv`,
        `worst_images.jpg` and `model_index.json` (numbers for a model card).

        Args:
            folder: Folder to write to; created if missing.
            threshold: Minimum score for the confusion matrix; None takes the threshold with the best F1.
            dataset_name: Name of the dataset for the model card; None takes its Hub name, or the name of its folder.
            dataset_revision: Version of the dataset for the model card.
            command: Command that reproduces the numbers.

        Returns:
            Path of `report.html`.

        Raises:
            OSError: A file cannot be written.
        """
        folder = Path(folder)
        dataset, split = self.data.dataset, self.data.split
        images = {image.id: image for image in self.data.images}
        settings = {name: value for name, value in self.settings.items() if value is not None}
        if command is not None:
            settings["command"] = command
        page = write_report(
            folder,
            self.evaluation,
            title=f"{self._model} on {dataset.name} ({split})",
            settings=settings,
            threshold=threshold,
            comparison=self.published,
            load_image=lambda image_id: images[image_id].load_image(),
        )
        shared_name = _name_without_folder(dataset.name)
        evidence = Evidence(
            dataset_name=dataset_name or shared_name,
            dataset_type=shared_name,
            dataset_split=split,
            dataset_revision=dataset_revision,
            command=command,
        )
        index = model_index(Path(self._model).name, eval_results(self.evaluation, evidence))
        with atomic_file(folder / "model_index.json") as temporary:
            temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return page

    def to_coco_results(self, path: str | Path) -> Path:
        """Write the detections in COCO's results format, with the class ids that were scored.

        Args:
            path: JSON file to write.

        Returns:
            The path.

        Raises:
            OSError: The file cannot be written.
        """
        with atomic_file(Path(path)) as temporary:
            temporary.write_text(json.dumps(list(to_coco_results(self.predictions))), encoding="utf-8")
        return Path(path)


def _name_without_folder(dataset: str) -> str:
    """Return a dataset's name to publish: of a path only its last part."""
    return Path(dataset).resolve().name if Path(dataset).exists() else dataset
