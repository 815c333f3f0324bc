from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console
from typer import Exit

from transformers_detr import DetrForSegmentation
from transformers_detr.cli import training_run
from transformers_detr.training import trainer
from transformers_detr.training.model_setup import StartingPoint
from transformers_detr.training.overfit_check import IMAGES, overfit

ARGUMENTS = {"use_cpu": True, "disable_tqdm": True, "edges": [48, 64], "longest_edge": 96, "train_whole_backbone": True}


def test_eight_images_are_trained_on_and_scored_and_nothing_is_written(tiny_model, processor, scenes, tmp_path, capsys):
    model, before = tiny_model(), tiny_model().state_dict()
    score = overfit(model, processor, scenes, {**ARGUMENTS, "output_dir": str(tmp_path)}, steps=2)
    assert 0 <= score <= 1
    assert any(not value.equal(before[name]) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""
    assert len(scenes.split("train")) > IMAGES


@pytest.mark.parametrize(("source", "steps"), [("a model", 400), ({"d_model": 32}, 1500)])
def test_a_fresh_model_gets_more_time(tiny_model, processor, scenes, monkeypatch, source, steps):
    asked = []
    monkeypatch.setattr(training_run, "overfit", lambda *arguments: asked.append(arguments[4]) or 1.0)
    training_run.try_eight_images(StartingPoint(tiny_model(), processor, source, {}), {}, scenes, Console(quiet=True))
    assert asked == [steps]


def test_with_masks_their_score_counts(tiny_model, processor, scenes, tmp_path, monkeypatch):
    def scored(truth, found, kind="bbox"):
        return SimpleNamespace(summary={"AP": 0.95 if kind == "segm" else 0.1})

    monkeypatch.setattr(trainer, "score_detections", scored)
    model = DetrForSegmentation.from_detector(tiny_model(encoder_attention_heads=8, decoder_attention_heads=8))
    arguments = {**ARGUMENTS, "output_dir": str(tmp_path), "train_whole_backbone": False}
    assert overfit(model, processor, scenes, arguments, steps=2) == 0.95


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.95, "The pipeline can learn: AP 0.95"), (0.5, "learns, slowly: AP 0.50"), (0.1, "were not learned: AP 0.10")],
)
def test_the_verdict(tiny_model, processor, scenes, monkeypatch, score, verdict):
    monkeypatch.setattr(training_run, "overfit", lambda *arguments: score)
    console = Console(record=True, soft_wrap=True)
    point = StartingPoint(tiny_model(), processor, "a model", {})
    if score < 0.3:
        with pytest.raises(Exit):
            training_run.try_eight_images(point, {}, scenes, console)
    else:
        training_run.try_eight_images(point, {}, scenes, console)
    assert verdict in console.export_text()
