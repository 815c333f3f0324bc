"""`detr segment`: divide pictures into segments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from transformers_detr.cli.image_run import (
    BackendName,
    BatchSize,
    Device,
    DtypeName,
    Inputs,
    Job,
    Model,
    Output,
    Overwrite,
    Pictures,
    PrecisionName,
    Recursive,
    Resume,
    Revision,
    exported_options,
    run_job,
    save_picture,
)
from transformers_detr.cli.run_folder import RunFolder, write_array
from transformers_detr.inference.sources import Source

if TYPE_CHECKING:
    from transformers_detr.inference.detector import Segmenter
    from transformers_detr.inference.segments import Segments

PANOPTIC = "panoptic"
SEMANTIC = "semantic"
COCO_RESULTS = "coco_results.json"


class Task(StrEnum):
    """What the segments are."""

    panoptic = "panoptic"
    instance = "instance"
    semantic = "semantic"


def segment(
    inputs: Inputs,
    model: Model = "facebook/detr-resnet-50-panoptic",
    output: Output = None,
    task: Annotated[
        Task,
        typer.Option(
            metavar="|".join(Task), help="Things and stuff, things that can be counted, or a class for each pixel."
        ),
    ] = Task.panoptic,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            "-t",
            metavar="SCORE",
            min=0,
            max=1,
            help="Scores must lie above it; semantic segmentation has none.",
            show_default="panoptic 0.85, instance 0.5",
        ),
    ] = None,
    batch_size: BatchSize = 4,
    device: Device = None,
    dtype: DtypeName = None,
    backend: BackendName = None,
    precision: PrecisionName = None,
    revision: Revision = None,
    recursive: Recursive = False,
    pictures: Pictures = True,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Divide pictures into segments.

    For one picture, a table of its segments is shown. With --output, DIR receives annotated/ (a copy of each
    picture with its segments) and predictions.jsonl (a line per picture, in input order, written as the run
    goes on); and, by task, what COCO's tools read: panoptic/ (pictures of segment ids) with panoptic.json;
    coco_results.json with run-length codes of the instances; semantic/ (pictures of class ids).

    A picture that cannot be read is reported and skipped; the exit status is then 1.
    """
    if task is Task.semantic and threshold is not None:
        raise typer.BadParameter("semantic segmentation has no threshold", param_hint="--threshold")
    job = Job(
        predictor=_segmenter,
        options={"task": task.value} | exported_options(backend, precision),
        found="segments",
        folders=(PANOPTIC, SEMANTIC),
        record=partial(_record, task),
        finish=partial(_finish, task),
        show=_show,
    )
    run_job(
        job,
        inputs,
        output,
        model=model,
        revision=revision,
        device=device,
        dtype=dtype,
        threshold=threshold,
        batch_size=batch_size,
        recursive=recursive,
        pictures=pictures,
        resume=resume,
        overwrite=overwrite,
    )


def _segmenter() -> type[Segmenter]:
    from transformers_detr.inference.detector import Segmenter

    return Segmenter


def _record(task: Task, source: Source, found: Segments, output: Path | None) -> dict[str, Any]:
    from PIL import Image

    name = f"{source.image_id:012d}.png"  # as COCO names them
    ids, annotation = found.to_coco_panoptic(source.image_id, name)
    entries = [
        {**entry, "label": info["name"], "isthing": int(not info["is_stuff"]), "score": info["score"]}
        for entry, info in zip(annotation["segments_info"], found.segments_info, strict=True)
    ]
    if task is Task.instance:
        codes = [entry["segmentation"] for entry in found.to_coco(source.image_id)]
        return {"segments": [{**entry, "segmentation": code} for entry, code in zip(entries, codes, strict=True)]}
    if output is not None:
        pixels = ids if task is Task.panoptic else found.class_map()
        save_picture(Image.fromarray(pixels), output, f"{task.value}/{name}")
    return {"segmentation": name, "segments": entries}


def _finish(task: Task, run: RunFolder) -> None:
    records = (record for record in run.records() if "error" not in record)
    if task is Task.panoptic:
        run.write_aside(f"{PANOPTIC}.json", lambda file: _write_panoptic(records, file))
    if task is Task.instance:
        run.write_aside(COCO_RESULTS, lambda file: write_array(_coco_results(records), file))


def _write_panoptic(records: Iterable[dict[str, Any]], file: IO[str]) -> None:
    """Write a COCO panoptic file; its categories are the classes that were found."""
    images, annotations, categories = [], [], {}
    for record in records:
        image_id = record["image_id"]
        size = {side: record[side] for side in ("height", "width")}
        images.append({"id": image_id, "file_name": Path(record["file"]).name, **size})
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
            yield {"image_id": record["image_id"], **{field: segment[field] for field in kept}}


def _show(record: dict[str, Any]) -> None:
    """Show the segments of one picture, the largest first."""
    title = f"{record['file']} ({record['width']} × {record['height']})"
    table = Table("class", title=escape(title), title_justify="left")
    for column in ("score", "area", "left", "top", "width", "height"):
        table.add_column(column, justify="right")
    pixels = record["width"] * record["height"]
    for segment in sorted(record["segments"], key=lambda segment: -segment["area"]):
        score = "" if segment["score"] is None else f"{segment['score']:.3f}"
        share = f"{100 * segment['area'] / pixels:.1f} %"
        table.add_row(escape(segment["label"]), score, share, *map(str, segment["bbox"]))
    Console().print(table)
