"""`detr demo`: no network, no downloads, detections of a scene that the model has not seen."""

from __future__ import annotations

import json

from PIL import Image
from typer.testing import CliRunner

from transformers_detr.cli import app
from transformers_detr.data.synthetic import make_scene


def iou(box, other):
    width = min(box["xmax"], other[2]) - max(box["xmin"], other[0])
    height = min(box["ymax"], other[3]) - max(box["ymin"], other[1])
    overlap = max(width, 0) * max(height, 0)
    areas = (box["xmax"] - box["xmin"]) * (box["ymax"] - box["ymin"]) + (other[2] - other[0]) * (other[3] - other[1])
    return overlap / (areas - overlap)


def test_it_finds_objects_and_leaves_images_and_answers(tmp_path):
    folder = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    assert "detr detect PHOTO" in result.output
    scene = make_scene(2020, 13)
    answers = json.loads((folder / "detections.json").read_text())
    found = [
        any(iou(answer["box"], item.box_xyxy_px) > 0.5 for answer in answers)
        for item in scene.objects
        if not item.iscrowd
    ]
    assert sum(found) >= 0.5 * len(found)
    for name in ("scene.png", "detections.png"):
        with Image.open(folder / name) as image:
            assert image.size == scene.image.size
    with Image.open(folder / "attention.png") as sheet:
        assert sheet.width > scene.image.width
    again = CliRunner().invoke(app, ["demo", "--output", str(folder)])
    assert again.exit_code == 2
    assert "--output" in again.output


def test_another_number_is_another_scene(tmp_path):
    scenes = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        assert CliRunner().invoke(app, ["demo", "-o", str(folder), "--scene", str(number)]).exit_code == 0
        scenes.append((folder / "scene.png").read_bytes())
    assert scenes[0] != scenes[1]
