"""Records of segments in `predictions.jsonl`, and files in the formats of COCO's tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from PIL import Image

from transformers_detr.inference.detection_output import COCO_RESULTS, write_array
from transformers_detr.inference.detector import SegmentationTask
from transformers_detr.inference.output_format import OutputFormat, save_image
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.predictions import Record, detection_entries
from transformers_detr.inference.segments import Segments
from transformers_detr.inference.sources import Source

PANOPTIC = "panoptic"
SEMANTIC = "semantic"


def _instances(source: Source, found: Segments, output: Path | None) -> Record:
    codes = [entry["segmentation"] for entry in found.to_coco(source.image_id)]
    boxes = [
        [x, y, x + width, y + height] for x, y, width, height in (info["bbox"] for info in _entries(source, found))
    ]
    infos = found.segments_info
    names, class_ids, scores = ([info[key] for info in infos] for key in ("name", "label_id", "score"))
    return {"detections": detection_entries(names, class_ids, scores, boxes, codes)}


def _panoptic(source: Source, found: Segments, output: Path | None) -> Record:
    ids, _ = found.to_coco_panoptic(source.image_id, "")
    return _with_map(source, found, ids, PANOPTIC, output)


def _semantic(source: Source, found: Segments, output: Path | None) -> Record:
    return _with_map(source, found, found.class_map(), SEMANTIC, output)


def _with_map(source: Source, found: Segments, pixels: Any, folder: str, output: Path | None) -> Record:
    """Return the record of segments whose map of ids or classes is an image of the folder."""
    name = f"{source.image_id:012d}.png"  # as COCO names them
    if output is not None:
        save_image(Image.fromarray(pixels), output, f"{folder}/{name}")
    return {"segmentation": name, "segments": _entries(source, found)}


def _entries(source: Source, found: Segments) -> list[dict[str, Any]]:
    """Return COCO's entries of the segments, with label, kind and score."""
    _, annotation = found.to_coco_panoptic(source.image_id, "")
    return [
        {**entry, "label": info["name"], "isthing": int(not info["is_stuff"]), "score": info["score"]}
        for entry, info in zip(annotation["segments_info"], found.segments_info, strict=True)
    ]


def _finish_instances(run: PredictionWriter) -> None:
    run.write_file(COCO_RESULTS, lambda file: write_array(_coco_results(run.records()), file))


def _finish_panoptic(run: PredictionWriter) -> None:
    records = (record for record in run.records() if "error" not in record)
    run.write_file(f"{PANOPTIC}.json", lambda file: _write_panoptic(records, file))


def _finish_semantic(run: PredictionWriter) -> None:
    """Write nothing more."""


def _write_panoptic(records: Iterable[Record], file: IO[str]) -> None:
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


def _coco_results(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield entries of a COCO results file; without boxes, which readers then take from the masks."""
    for record in records:
        for entry in record.get("detections", ()):
            found = {"category_id": entry["class_id"], "segmentation": entry["mask"], "score": entry["score"]}
            yield {"image_id": record["id"], **found}


SEGMENTS: dict[SegmentationTask, OutputFormat] = {
    "panoptic": OutputFormat(found="segments", folders=(PANOPTIC,), record=_panoptic, finish=_finish_panoptic),
    "instance": OutputFormat(found="detections", folders=(), record=_instances, finish=_finish_instances),
    "semantic": OutputFormat(found="segments", folders=(SEMANTIC,), record=_semantic, finish=_finish_semantic),
}
"""Records and files of each segmentation task."""
