"""HTML page of a training: curves of the log, self-contained, updated during the training."""

from __future__ import annotations

import base64
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from transformers_detr.training.loss_curves import curves, logged
from transformers_detr.training.trainer import DetrTrainer
from transformers_detr.training.training_report import TrainingPageCallback, write_training_page


def state(log, step=6, epoch=3.0, best=None):
    return SimpleNamespace(
        log_history=log, global_step=step, max_steps=8, epoch=epoch, best_metric=best, is_world_process_zero=True
    )


LOG = [
    {"step": 2, "epoch": 1.0, "loss": 3.5, "loss_ce": 2.0, "learning_rate": 1e-4, "grad_norm": 12.0},
    {"step": 2, "epoch": 1.0, "eval_AP": 12.5, "eval_AP50": 50, "eval_AP75": 5},
    {"step": 4, "epoch": 2.0, "loss": 2.5, "loss_ce": 1.0, "learning_rate": 1e-4, "grad_norm": 8.0},
    {"step": 4, "epoch": 2.0, "eval_AP": 47.5, "eval_AP50": 75, "eval_AP75": 35},
    {
        "step": 6,
        "epoch": 3.0,
        "loss": 2.25,
        "loss_ce": 0.5,
        "learning_rate": 1e-5,
        "grad_norm": 9.0,
        "skipped_steps": 2,
    },
    {"step": 6, "epoch": 3.0, "eval_AP": 37.5, "eval_AP50": 62.5, "eval_AP75": 25},
]


def drawings(page):
    """The SVG trees of a page by their captions."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]*)"', page)
    return {caption: ElementTree.fromstring(base64.b64decode(data)) for caption, data in found}


def test_page_has_numbers_curves_and_settings(tmp_path):
    path = write_training_page(tmp_path, state(LOG), "Training on <cats>", {"learning_rate": 0.0001})
    page = path.read_text(encoding="utf-8")
    assert "Training on &lt;cats&gt;" in page
    assert "Step 6 of 8, epoch 3.0" in page
    assert re.search(r"<b>47.5</b><span>best AP</span>", page)
    assert re.search(r"<b>2.250</b><span>final loss</span>", page)
    assert "2 steps were skipped" in page
    bold = re.search(r"<tr><td>2.0</td><td><b>47.5</b>", page)
    assert bold
    assert page.index("<td>3.0</td>") < bold.start() < page.index("<td>1.0</td>")
    assert "0.0001" in page
    assert set(drawings(page)) >= {"Training loss", "Average precision on the validation images"}
    assert "AP by object size" not in drawings(page)
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert [file.name for file in tmp_path.iterdir()] == ["training.html"]


def test_values_are_told_once_without_those_that_are_no_numbers():
    log = [
        {"step": 1, "epoch": 0.5, "loss": 1.0},
        {"step": 2, "epoch": 1.0, "loss": float("nan")},
        {"step": 3, "epoch": 1.5, "loss": 9.0},
        {"step": 3, "epoch": 1.5, "loss": 3.0},  # once more, after the training was resumed
    ]
    np.testing.assert_array_equal(logged(log, "loss"), [[0.5, 1.0], [1.5, 3.0]])
    assert logged(log, "eval_AP").shape == (0, 2)
    assert curves(log, {"eval_AP": "AP"}, "AP") is None


def test_many_values_are_shown_with_their_running_mean():
    noise = np.random.default_rng(0).normal(5, 1, 400)
    log = [{"step": i, "epoch": i / 10, "loss": float(value)} for i, value in enumerate(noise)]
    few, many = (len(curves(part, {"loss": "loss"}, "Loss")) for part in (log[:20], log))
    assert few < many < 100_000


def test_a_training_keeps_the_page(tiny_model, processor, scenes, arguments, tmp_path):
    sheet = Image.new("RGB", (30, 20), (200, 10, 10))
    page = TrainingPageCallback(tmp_path, "Training", {"a": "b"}, sheet)
    seen = []
    page_of = page.on_evaluate

    def noting(*given, **more):
        page_of(*given, **more)
        seen.append((tmp_path / "training.html").read_text(encoding="utf-8"))

    page.on_evaluate = noting
    trainer = DetrTrainer(tiny_model(), arguments(num_train_epochs=2), scenes, processor, callbacks=[page])
    trainer.train()
    assert len(seen) == 3, "after each epoch and at the end"
    assert "epoch 1.0" in seen[0]
    assert "epoch 2.0" in seen[-1]
    ap = [entry["eval_AP"] for entry in trainer.state.log_history if "eval_AP" in entry]
    assert f"<b>{max(ap):.1f}</b><span>best AP</span>" in seen[-1]
    assert "data:image/jpeg;base64," in seen[-1]
    assert "Loss terms of the last layer" in drawings(seen[-1])


def test_other_processes_write_nothing(tmp_path):
    other = state(LOG)
    other.is_world_process_zero = False
    TrainingPageCallback(tmp_path, "Training", {}).on_evaluate(None, other, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("log", [[], LOG[:1], LOG[1:2]], ids=["nothing", "loss", "scores"])
def test_page_of_little(log, tmp_path):
    assert write_training_page(tmp_path, state(log), "t", {}).exists()
