"""`detr demo`: detect and explain a generated scene with the bundled model, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from transformers_detr.data.synthetic import Scene
    from transformers_detr.inference.detections import Detections

SERIES = 2020
"""Seed of scenes that are not in the training data of the bundled model."""

THRESHOLD = 0.7
"""Minimum score."""

MATCH_IOU = 0.5
"""Minimum IoU of a detection and the object beside it in the table."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to create.")] = Path(
        "detr-demo"
    ),
    scene: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the scene.")] = 13,
) -> None:
    """Detect the objects of a generated scene with the bundled model, offline and within seconds.

    Writes the scene, the annotated scene, the detections as JSON, and an attention figure.
    """
    console = Console()
    with console.status("Loading"):
        from transformers.utils import logging

        from transformers_detr.atomic_io import atomic_folder
        from transformers_detr.data.synthetic import make_scene
        from transformers_detr.explanation.explanation import explain
        from transformers_detr.hub.bundled_model import NAME
        from transformers_detr.inference.detector import Detector
    if output.exists():
        raise typer.BadParameter(f"{output} exists already; choose another folder", param_hint="--output")

    logging.disable_progress_bar()  # for reading weights
    generated = make_scene(SERIES, scene)
    detector = Detector.from_pretrained(NAME, device="cpu")
    detections = detector(generated.image, threshold=THRESHOLD, keep_images=True)
    explanation = explain(detector, generated.image, threshold=THRESHOLD)
    with atomic_folder(output) as folder:
        generated.image.save(folder / "scene.png")
        detections.draw().save(folder / "detections.png")
        explanation.save(folder / "attention.png", f"scene.png · {NAME}")
        answer = json.dumps(detections.to_dict(), indent=2) + "\n"
        (folder / "detections.json").write_text(answer, encoding="utf-8")

    console.print(_table(generated, detections))
    console.print(
        f"Written to [bold]{output}[/]: the scene, the annotated scene, the detections as JSON, and attention.png.\n"
        f"Another scene: [bold]detr demo --scene {scene + 1} --output {output}-{scene + 1}[/]\n"
        "Your own photos, with weights trained on COCO: [bold]detr detect PHOTO --output detections[/]"
    )


def _table(scene: Scene, detections: Detections) -> Table:
    """Return a table of detections by score with the object that each overlaps most, then the missed objects."""
    from transformers_detr.data.synthetic import CLASS_NAMES

    objects = [item for item in scene.objects if not item.iscrowd]
    table = Table(title=f"{len(detections)} detections, {len(objects)} objects", title_justify="left")
    for heading in ("detected", "score", "ground truth", "IoU"):
        table.add_column(heading)
    for detection, (item, iou) in zip(detections, scene.nearest_objects(detections.boxes_xyxy_px), strict=True):
        found = item is not None and iou >= MATCH_IOU
        if found and item in objects:
            objects.remove(item)
        actual = CLASS_NAMES[item.label] if item is not None and found else "nothing"
        table.add_row(detection.label, f"{detection.score:.2f}", actual, f"{iou:.2f}")
    for item in objects:
        table.add_row("—", "", CLASS_NAMES[item.label], "")
    return table
