"""The report folder: metrics.json, tables, charts, the worst images, and one HTML page that shows them all."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transformers_detr.atomic_io import atomic_files
from transformers_detr.evaluation.average_precision import AREAS, MEANINGS
from transformers_detr.evaluation.operating_points import (
    ImageErrors,
    confusion_matrix,
    precision_recall,
    score_histogram,
    worst_images,
)
from transformers_detr.evaluation.published_comparison import Comparison
from transformers_detr.evaluation.scoring import Evaluation
from transformers_detr.visualization.annotate import contact_sheet, draw_boxes
from transformers_detr.visualization.html_page import jpeg_url, render_page, svg_url

PAGE = "report.html"
WORST_IMAGES = 12
TILE_WIDTH = 560

MISSED_COLOR, FALSE_COLOR = 3, 1
"""Colors of missed objects and false alarms, used as class ids when drawing boxes."""


@dataclass(frozen=True)
class Tile:
    """Drawing of the errors in one image."""

    file_name: str
    caption: str
    drawing: Image.Image


def write_report(
    folder: Path,
    evaluation: Evaluation,
    title: str,
    settings: Mapping[str, Any],
    threshold: float | None = None,
    comparison: Comparison | None = None,
    load_image: Callable[[int], Image.Image] | None = None,
) -> Path:
    """Write `metrics.json`, `per_class.csv`, `confusion_matrix.csv`, `worst_images.jpg` and `report.html`.

    Without matplotlib the page has no charts; `can_draw_charts` tells.

    Args:
        folder: Folder to write to; created if missing.
        evaluation: The numbers.
        title: Heading of the page.
        settings: How it was measured: model, data, command …; shown and stored.
        threshold: Score from which on detections enter the confusion matrix and count as errors; if not given,
            the threshold with the best F1.
        comparison: With published numbers.
        load_image: Returns the image of an id; without it, no errors are drawn.

    Returns:
        Path of the page.
    """
    if threshold is None:
        best = evaluation.best_overall.threshold
        threshold = 0.5 if math.isnan(best) else best
    classes = class_rows(evaluation)
    confusion = confusion_matrix(evaluation.matches, [row["category_id"] for row in classes], threshold)
    metrics = {"settings": dict(settings), **evaluation.metrics(), "confusion_threshold": threshold}
    if comparison:
        metrics["published"] = asdict(comparison)
    names = [row["name"] for row in classes]
    rows = [[name, *counts] for name, counts in zip([*names, "nothing"], confusion.tolist(), strict=True)]
    tiles = _tiles(evaluation, threshold, load_image) if load_image else []
    with atomic_files(folder) as files:
        _write(files / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
        _write_csv(files / "per_class.csv", list(classes[0]), [list(row.values()) for row in classes])
        _write_csv(files / "confusion_matrix.csv", ["truth \\ detected", *names, "missed"], rows)
        if tiles:
            contact_sheet([tile.drawing for tile in tiles]).save(files / "worst_images.jpg", quality=88)
        _write(files / PAGE, _page(evaluation, title, settings, threshold, comparison, classes, confusion, tiles))
    return folder / PAGE


def can_draw_charts() -> bool:
    """Return whether matplotlib is installed, which draws the charts of the page."""
    return importlib.util.find_spec("matplotlib") is not None


def class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return a table row for each class: its average precision and its best operating point."""
    rows = []
    for scores in evaluation.boxes.per_class:
        best = evaluation.best_per_class[scores.category_id]
        row = asdict(scores)
        row["average_recall"] = row.pop("recall")
        row |= {"best_threshold": best.threshold, "precision": best.precision, "recall": best.recall, "f1": best.f1}
        rows.append(row)
    return rows


def _tiles(evaluation: Evaluation, threshold: float, load_image: Callable[[int], Image.Image]) -> list[Tile]:
    names = {category["id"]: category["name"] for category in evaluation.ground_truth["categories"]}
    files = {image["id"]: image["file_name"] for image in evaluation.ground_truth["images"]}
    tiles = []
    for errors in worst_images(evaluation.matches, threshold, WORST_IMAGES):
        image_id = errors.matches.image_id
        try:
            image = load_image(image_id)
        except (OSError, ValueError):
            continue  # predictions can be scored where the images are not
        caption = f"{files[image_id]}: {len(errors.missed)} missed, {len(errors.false_alarms)} false"
        drawing = _draw_errors(image, errors, names)
        tiles.append(Tile(files[image_id], caption, drawing))
    return tiles


def _draw_errors(image: Image.Image, errors: ImageErrors, names: Mapping[int, str]) -> Image.Image:
    """Draw missed objects and false alarms on a small copy of the image."""
    matches = errors.matches
    scale = TILE_WIDTH / image.width
    small = image.convert("RGB").resize((TILE_WIDTH, max(round(image.height * scale), 1)))
    boxes_xywh = np.concatenate([matches.object_boxes[errors.missed], matches.detection_boxes[errors.false_alarms]])
    boxes_xyxy = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    captions = [f"missed {names[int(matches.present[i])]}" for i in errors.missed]
    captions += [f"false {names[int(matches.detected[i])]} {matches.scores[i]:.2f}" for i in errors.false_alarms]
    colors = [MISSED_COLOR] * len(errors.missed) + [FALSE_COLOR] * len(errors.false_alarms)
    return draw_boxes(small, boxes_xyxy * scale, captions, colors)


def _page(
    evaluation: Evaluation,
    title: str,
    settings: Mapping[str, Any],
    threshold: float,
    comparison: Comparison | None,
    classes: Sequence[Mapping[str, Any]],
    confusion: NDArray[np.int64],
    tiles: Sequence[Tile],
) -> str:
    panoptic = evaluation.panoptic
    files = {image["id"]: image["file_name"] for image in evaluation.ground_truth["images"]}
    return render_page(
        Path(__file__).parent,
        "evaluation_report.html.jinja",
        title=title,
        images=len(files),
        objects=sum(row["objects"] for row in classes),
        classes=[row for row in classes if row["objects"]],
        unreadable={files[i]: reason for i, reason in evaluation.unreadable.items()},
        headline=_headline(evaluation),
        best_f1=evaluation.best_overall.f1,
        summaries=[
            {"name": name, "numbers": scores.summary}
            for name, scores in (("Boxes", evaluation.boxes), ("Masks", evaluation.masks))
            if scores
        ],
        meanings=MEANINGS,
        max_detections=evaluation.boxes.max_detections[-1],
        panoptic=panoptic and [("All", panoptic.all), ("Things", panoptic.things), ("Stuff", panoptic.stuff)],
        published=comparison,
        charts=_charts(evaluation, threshold, confusion, [row["name"] for row in classes]),
        tiles=[{"alt": tile.caption, "caption": tile.caption, "src": jpeg_url(tile.drawing)} for tile in tiles],
        threshold=threshold,
        settings=settings,
    )


def _headline(evaluation: Evaluation) -> list[tuple[str, float]]:
    boxes = evaluation.boxes.summary
    headline = [("Box AP", boxes["AP"]), ("Box AP50", boxes["AP50"]), ("Box AP75", boxes["AP75"])]
    if evaluation.masks:
        headline.append(("Mask AP", evaluation.masks.summary["AP"]))
    if evaluation.panoptic:
        headline.append(("Panoptic quality", evaluation.panoptic.all.pq))
    return headline


def _charts(
    evaluation: Evaluation, threshold: float, confusion: NDArray[np.int64], names: list[str]
) -> list[dict[str, str]]:
    if not can_draw_charts():
        return []
    from transformers_detr.evaluation import charts

    right, wrong = score_histogram(evaluation.matches)
    curve = precision_recall(evaluation.matches)
    best = evaluation.best_overall
    drawn = [
        ("Precision and recall, mean over classes", charts.precision_recall_by_iou(evaluation.boxes)),
        ("Precision and recall of each class (IoU 0.5)", charts.precision_recall_by_class(evaluation.boxes)),
        ("What a score threshold gives (IoU 0.5)", charts.threshold_chart(curve, best)),
        ("Scores of right and wrong detections (IoU 0.5)", charts.score_chart(right, wrong)),
        ("AP by object size", charts.size_chart(evaluation.boxes, objects_by_size(evaluation))),
        (
            f"What objects were taken for, at scores from {threshold:.2f} (the most confused classes)",
            charts.confusion_chart(confusion, names),
        ),
    ]
    return [{"caption": caption, "alt": caption, "src": svg_url(svg)} for caption, svg in drawn]


def objects_by_size(evaluation: Evaluation) -> dict[str, int]:
    """Count the objects that are no crowds by COCO's size of their area."""
    areas = [
        annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3])
        for annotation in evaluation.ground_truth["annotations"]
        if not annotation.get("iscrowd", 0)
    ]
    counts = Counter(AREAS[1 + int(area > 32**2) + int(area > 96**2)] for area in areas)
    return {size: counts[size] for size in AREAS[1:]}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([["" if isinstance(v, float) and math.isnan(v) else v for v in row] for row in rows])
