"""`detr demo`: an unseen scene, its objects and where the model looked for them, without network."""

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
"""Series of scenes that the bundled model was not trained on."""

THRESHOLD = 0.7
"""Detections score above it."""

MET = 0.5
"""A detection and an object that overlap by this IoU belong together in the table."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make; it must not exist.")] = Path(
        "detr-demo"
    ),
    scene: Annotated[int, typer.Option(min=0, metavar="N", help="Which scene to paint; every number is another.")] = 13,
) -> None:
    """Detect the objects of a generated scene with the bundled model: no network, a few seconds.

    Writes the scene, the scene with its detections, the detections as JSON, and where the model looked for each.
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
        raise typer.BadParameter(f"{output} exists already; name another folder", param_hint="--output")

    logging.disable_progress_bar()  # for reading weights, which takes a moment
    picture = make_scene(SERIES, scene)
    detector = Detector.from_pretrained(NAME, device="cpu")
    detections = detector(picture.image, threshold=THRESHOLD, keep_images=True)
    explanation = explain(detector, picture.image, threshold=THRESHOLD)
    with atomic_folder(output) as folder:
        picture.image.save(folder / "scene.png")
        detections.draw().save(folder / "detections.png")
        explanation.save(folder / "attention.png", f"scene.png · {NAME}")
        answer = json.dumps(detections.to_dict(), indent=2) + "\n"
        (folder / "detections.json").write_text(answer, encoding="utf-8")

    console.print(_table(picture, detections))
    console.print(
        f"In [bold]{output}[/]: the scene, its detections as a picture and as JSON, and attention.png, where the model "
        "looked.\n"
        f"Another scene: [bold]detr demo --scene {scene + 1} --output {output}-{scene + 1}[/]\n"
        "Your own photographs, with weights trained on COCO: [bold]detr detect PHOTO --output detections[/]"
    )


def _table(scene: Scene, detections: Detections) -> Table:
    """Detections, best first, each beside the object that it overlaps most, and the objects that none overlaps."""
    import torch

    from transformers_detr.data.synthetic import CLASS_NAMES
    from transformers_detr.model.boxes_detr import box_iou

    objects = [item for item in scene.objects if not item.iscrowd]
    truth = torch.tensor([item.box_xyxy_px for item in objects], dtype=torch.float32).reshape(-1, 4)
    overlaps, _ = box_iou(torch.from_numpy(detections.boxes_xyxy_px), truth)  # (N, M)
    table = Table(title=f"{len(detections)} detections, {len(objects)} objects", title_justify="left")
    for heading in ("found", "score", "truth", "IoU"):
        table.add_column(heading)
    missed = set(range(len(objects)))
    for index in detections.scores.argsort()[::-1]:
        overlap, nearest = overlaps[index].max(0) if objects else (torch.tensor(0.0), torch.tensor(-1))
        met = float(overlap) >= MET
        missed -= {int(nearest)} if met else set()
        actual = CLASS_NAMES[objects[int(nearest)].label] if met else "nothing"
        table.add_row(detections.labels[index], f"{detections.scores[index]:.2f}", actual, f"{overlap:.2f}")
    for index in sorted(missed):
        table.add_row("—", "", CLASS_NAMES[objects[index].label], "")
    return table
