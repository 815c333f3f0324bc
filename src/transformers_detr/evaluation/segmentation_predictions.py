"""Masks and panoptic segments: model outputs → files → panoptic quality."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_length
from PIL import Image

from transformers_detr.evaluation.coco_types import CocoCategory
from transformers_detr.evaluation.evaluation_data import EvaluationData
from transformers_detr.evaluation.panoptic_quality import PanopticMap, PanopticQuality, count_segments, panoptic_quality
from transformers_detr.evaluation.predict import PreparedBatch, detections
from transformers_detr.evaluation.predictions import ImagePrediction, PanopticFile
from transformers_detr.model.coco_masks_detr import CocoRle, rgb_to_ids
from transformers_detr.model.postprocessing_detr import EVERY_QUERY, post_process_instance_masks
from transformers_detr.model.postprocessing_segmentation_detr import post_process_panoptic_paper, segments_to_coco

PANOPTIC_FOLDER = "panoptic"
"""Folder beside the predictions file for the images of segment ids."""


@dataclass(frozen=True, eq=False)
class PanopticTruth:
    """True segments of an image set, in COCO's panoptic format.

    Attributes:
        categories: The classes, ids being class ids of the model.
        annotations: COCO's entry of each image, by image id.
        folder: Folder of the ID images.
    """

    categories: list[CocoCategory]
    annotations: dict[int, dict[str, Any]]
    folder: Path


def read_panoptic_truth(path: Path, label_of: Mapping[str, int]) -> PanopticTruth:
    """Read COCO's panoptic annotations; the ID images lie in the folder of the same name beside the file.

    Args:
        path: The JSON file.
        label_of: Class name → class id of the model, which the categories are numbered by.

    Raises:
        ValueError: The file is no panoptic annotation file, or has a class that the model does not know.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    annotations = content.get("annotations", []) if isinstance(content, dict) else []
    if not annotations or "segments_info" not in annotations[0]:
        raise ValueError(f"{path}: not a panoptic annotation file: no 'segments_info' in 'annotations'")
    unknown = [category["name"] for category in content["categories"] if category["name"] not in label_of]
    if unknown:
        raise ValueError(f"{path}: the model does not have the classes {unknown}")
    label_of_id = {category["id"]: label_of[category["name"]] for category in content["categories"]}
    for annotation in annotations:
        for segment in annotation["segments_info"]:
            segment["category_id"] = label_of_id[segment["category_id"]]
    categories: list[CocoCategory] = [
        {"id": label_of_id[category["id"]], "name": category["name"], "isthing": category["isthing"]}
        for category in content["categories"]
    ]
    return PanopticTruth(categories, {a["image_id"]: a for a in annotations}, path.with_suffix(""))


def segmentations(outputs: Any, batch: PreparedBatch, folder: Path, stuff: Collection[int]) -> list[ImagePrediction]:
    """Return all queries with masks, and panoptic segments by the paper's procedure, as predictions.

    Args:
        outputs: Has `logits`, `pred_boxes` and `pred_masks`.
        batch: What the model was given.
        folder: Folder for the images of segment ids.
        stuff: Class ids of which an image has one segment each.
    """
    sizes = [(image.height, image.width) for image in batch.images]
    masked = post_process_instance_masks(outputs, batch.sizes, sizes, EVERY_QUERY)
    segments = post_process_panoptic_paper(outputs, batch.sizes, label_ids_to_fuse=stuff, target_sizes=sizes)
    folder.mkdir(parents=True, exist_ok=True)
    predictions = []
    for prediction, found, parts in zip(detections(outputs, batch), masked, segments, strict=True):
        if prediction.error is None:
            file_name = f"{prediction.image_id}.png"
            id_image, entry = segments_to_coco(parts, prediction.image_id, file_name)
            Image.fromarray(id_image).save(folder / file_name)
            info = [{"id": s["id"], "category_id": s["category_id"]} for s in entry["segments_info"]]
            masks = _run_length_codes(found["masks"].cpu().numpy())
            prediction = replace(prediction, masks=masks, panoptic=PanopticFile(file_name, info))
        predictions.append(prediction)
    return predictions


def score_panoptic(truth: PanopticTruth, predictions: Iterable[ImagePrediction], folder: Path) -> PanopticQuality:
    """Measure panoptic quality over the images of `truth`; all segments of an image without predictions are missed.

    A predicted segment of a class that `truth` does not have, such as one of the unused ids of the published
    checkpoints, is a false alarm of a class that is not averaged: it changes nothing.

    Args:
        truth: The true segments.
        predictions: With `panoptic` set where segments were predicted.
        folder: Folder of the predicted ID images.

    Raises:
        ValueError: A prediction does not fit its image; see `count_segments`.
    """
    predicted = {prediction.image_id: prediction.panoptic for prediction in predictions}
    known = {category["id"] for category in truth.categories}
    counts = np.zeros((len(truth.categories), 4))
    for image_id, annotation in truth.annotations.items():
        true_map = load_map(image_id, annotation["file_name"], annotation["segments_info"], truth.folder)
        file = predicted.get(image_id)
        predicted_map = None
        if file is not None:
            predicted_map = _without_others(load_map(image_id, file.file_name, file.segments_info, folder), known)
        counts += count_segments(true_map, predicted_map, truth.categories)
    return panoptic_quality(counts, truth.categories)


def measure_panoptic(
    chosen: EvaluationData, predictions: Sequence[ImagePrediction], folder: Path, file: Path | None
) -> tuple[PanopticQuality | None, str | None]:
    """Measure panoptic quality if segments were predicted and the ground truth is available.

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
            raise ValueError(f"{file}: nothing to compare with this file: the model detects boxes only")
        return None, None
    source = chosen.images[0].source
    beside = source.with_name(source.name.replace("instances", "panoptic"))
    if file is None and (beside == source or not beside.exists()):
        looked_for = f"there is no {beside.name} beside {source.name}" if beside != source else "none was named"
        return (
            None,
            f"panoptic quality was not measured: {looked_for}; give COCO's panoptic JSON as `panoptic` (--panoptic)",
        )
    truth = read_panoptic_truth(file or beside, chosen.label_of)
    annotations = {image.id: truth.annotations[image.id] for image in chosen.images if image.id in truth.annotations}
    if not annotations:
        raise ValueError(f"{file or beside}: it has none of the images of {source}")
    missing = len(chosen.images) - len(annotations)
    note = f"panoptic quality leaves out {missing} images, of which {(file or beside).name} says nothing"
    quality = score_panoptic(replace(truth, annotations=annotations), predictions, folder / PANOPTIC_FOLDER)
    return quality, note if missing else None


def load_map(image_id: int, file_name: str, segments_info: Iterable[Mapping[str, Any]], folder: Path) -> PanopticMap:
    """Read an image of segment ids with their classes."""
    segments = list(segments_info)
    with Image.open(folder / file_name) as id_image:
        ids = rgb_to_ids(np.asarray(id_image.convert("RGB")))
    crowds = frozenset(segment["id"] for segment in segments if segment.get("iscrowd", 0))
    return PanopticMap(image_id, ids, {segment["id"]: segment["category_id"] for segment in segments}, crowds)


def _without_others(segments: PanopticMap, known: Collection[int]) -> PanopticMap:
    """Return only the segments of known classes."""
    others = [i for i, category in segments.category_of.items() if category not in known]
    kept = {i: category for i, category in segments.category_of.items() if category in known}
    return replace(segments, ids=np.where(np.isin(segments.ids, others), 0, segments.ids), category_of=kept)


def _run_length_codes(masks: np.ndarray[Any, Any]) -> list[CocoRle]:
    """Return the run-length codes of masks `(N, H, W)`."""
    codes = run_length.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": list(code["size"]), "counts": code["counts"].decode()} for code in codes]
