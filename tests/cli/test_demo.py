"""`detr demo`: no network, no weights, and yet detections."""

from __future__ import annotations

import importlib
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_detr.cli import app


def test_it_leaves_pictures_answers_and_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("transformers_detr.cli.demo"), "STEPS", 2)
    folder = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--output", str(folder)])
    assert result.exit_code == 0, result.output
    assert "detr detect PHOTO" in result.output
    answers = json.loads((folder / "detections.json").read_text())
    assert list(answers) == ["000000.png", "000001.png"]
    for name in answers:
        stem = name.removesuffix(".png")
        with (
            Image.open(folder / f"{stem}-detections.png") as drawn,
            Image.open(folder / "scenes/images" / name) as scene,
        ):
            assert drawn.size == scene.size
    assert {path.name for path in (folder / "model").iterdir()} >= {"config.json", "model.safetensors"}
    again = CliRunner().invoke(app, ["demo", "--output", str(folder)])
    assert again.exit_code == 2
    assert "--output" in again.output


@pytest.mark.slow
def test_what_it_learnt_it_finds(tmp_path):
    """About a minute."""
    folder = tmp_path / "demo"
    assert CliRunner().invoke(app, ["demo", "--output", str(folder)]).exit_code == 0
    answers = json.loads((folder / "detections.json").read_text())
    truth = json.loads((folder / "scenes" / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    missed = 0
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        file = next(image["file_name"] for image in truth["images"] if image["id"] == annotation["image_id"])
        found = [
            answer["box"]
            for answer in answers[file.split("/")[-1]]
            if answer["label"] == names[annotation["category_id"]]
        ]
        overlaps = [
            max(0, min(b["xmax"], x + width) - max(b["xmin"], x))
            * max(0, min(b["ymax"], y + height) - max(b["ymin"], y))
            for b in found
        ]
        missed += max(overlaps, default=0) < 0.6 * width * height
    assert missed <= 0.2 * len(truth["annotations"])
