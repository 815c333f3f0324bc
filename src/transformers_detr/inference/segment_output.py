"""Segments as lines of `predictions.jsonl`, and the files of COCO's tools made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from PIL import Image

from transformers_detr.inference.detection_output import COCO_RESULTS, write_array
from transformers_detr.inference.detector import SegmentationTask
from transformers_detr.inference.image_run import OutputFormat, save_image
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.segments import Segments
from transformers_detr.inference.sources import Source

PANOPTIC = "panoptic"
SEMANTIC = "semantic"


def segments_format(task: SegmentationTask) -> OutputFormat:
    """Return the records and files of a segmentation task."""
    return OutputFormat(
        found="segments", folders=(PANOPTIC, SEMANTIC), record=partial(_record, task), finish=partial(_finish, task)
    )


def _record(task: SegmentationTask, source: Source, found: Segments, output: Path | None) -> dict[str, Any]:
    name = f"{source.image_id:012d}.png"  # as COCO names them
    ids, annotation = found.to_coco_panoptic(source.image_id, name)
    entries = [
        {**entry, "label": info["name"], "isthing": int(not info["is_stuff"]), "score": info["score"]}
        for entry, info in zip(annotation["segments_info"], found.segments_info, strict=True)
    ]
    if task == "instance":
        codes = [entry["segmentation"] for entry in found.to_coco(source.image_id)]
        return {"segments": [{**entry, "segmentation": code} for entry, code in zip(entries, codes, strict=True)]}
    if output is not None:
        pixels = ids if task == "panoptic" else found.class_map()
        save_image(Image.fromarray(pixels), output, f"{task}/{name}")
    return {"segmentation": name, "segments": entries}


def _finish(task: SegmentationTask, run: PredictionWriter) -> None:
    records = (record for record in run.records() if "error" not in record)
    if task == "panoptic":
        run.write_file(f"{PANOPTIC}.json", lambda file: _write_panoptic(records, file))
    if task == "instance":
        run.write_file(COCO_RESULTS, lambda file: write_array(_coco_results(records), file))


def _write_panoptic(records: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """Write a COCO panoptic file; its categories are the classes that were found."""
    images, annotations, categories = [], [], {}
    for record in records:
        image_id = record["id"]
        size = {side: record[side] for side in ("height", "width")}
        images.append({"id": image_id, "file_name": Path(record["uri"]).name, **size})
        kept = ("id", "category_id", "area", "bbox", "iscrowd")
        info = [{field: segment[field] for field in kept} for segment in record["segments"]]
        annotations.append({"image_id": image_id, "file_name": record["segmentation"], "segments_info": info})
        for segment in record["segments"]:
            label = segment["category_id"]
            categories[label] = {"id": label, "name": segment["label"], "isthing": segment["isthing"]}
    ordered = [categories[label] for label in sorted(categories)]
    json.dump({"images": images, "annotations": annotations, "categories": ordered}, file)


def _coco_results(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield entries of a COCO results file; without boxes, which readers then take from the masks."""
    for record in records:
        for segment in record["segments"]:
            kept = ("category_id", "segmentation", "score")
            yield {"image_id": record["id"], **{field: segment[field] for field in kept}}
