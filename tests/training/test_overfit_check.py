from __future__ import annotations

from types import SimpleNamespace

import pytest

from transformers_detr import DetrForSegmentation
from transformers_detr.training import trainer
from transformers_detr.training.overfit_check import IMAGES, OverfitResult, overfit

ARGUMENTS = {"use_cpu": True, "disable_tqdm": True, "edges": [48, 64], "longest_edge": 96, "train_whole_backbone": True}


def test_eight_images_are_trained_on_and_scored_and_nothing_is_written(tiny_model, processor, scenes, tmp_path, capsys):
    model, before = tiny_model(), tiny_model().state_dict()
    result = overfit(model, processor, scenes, {**ARGUMENTS, "output_dir": str(tmp_path)}, steps=2)
    assert 0 <= result.ap <= 1
    assert any(not value.equal(before[name]) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""
    assert len(scenes.split("train")) > IMAGES


def test_with_masks_their_score_counts(tiny_model, processor, scenes, tmp_path, monkeypatch):
    def scored(truth, found, kind="bbox"):
        return SimpleNamespace(summary={"AP": 0.95 if kind == "segm" else 0.1})

    monkeypatch.setattr(trainer, "score_detections", scored)
    model = DetrForSegmentation.from_detector(tiny_model(encoder_attention_heads=8, decoder_attention_heads=8))
    arguments = {**ARGUMENTS, "output_dir": str(tmp_path), "train_whole_backbone": False}
    assert overfit(model, processor, scenes, arguments, steps=2).ap == 0.95


@pytest.mark.parametrize(
    ("ap", "verdict"),
    [(1.0, "passed"), (0.9, "passed"), (0.89, "slow"), (0.3, "slow"), (0.29, "failed"), (0.0, "failed")],
)
def test_the_verdict_follows_from_ap(ap, verdict):
    assert OverfitResult(ap).verdict == verdict
