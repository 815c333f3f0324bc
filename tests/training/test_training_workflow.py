"""`train`, `preview` and `check_overfit` as Python calls them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from training.conftest import TINY
from transformers_detr import Detector, DetrConfig, DetrForObjectDetection, DetrImageProcessor, evaluate, train
from transformers_detr.training import training_workflow
from transformers_detr.training.overfit_check import OverfitResult
from transformers_detr.training.training_workflow import FaultyDatasetError, check_overfit, preview

QUICK = {"workers": 0, "settings": {"use_cpu": True, "report_to": "none"}}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Folder of a tiny model with two classes."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    DetrForObjectDetection(DetrConfig(**TINY, num_labels=2)).save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


class Steps(TrainerCallback):
    def __init__(self):
        self.count = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1


@pytest.fixture(scope="module")
def run(start, scenes, tmp_path_factory):
    """A training of two epochs, with the messages and the number of steps that its callbacks received."""
    messages, steps = [], Steps()
    output = tmp_path_factory.mktemp("run")
    options = {"epochs": 2, "callbacks": [steps], "notify": messages.append, **QUICK}
    return train(scenes, model=start, output_dir=output, **options), messages, steps.count


def test_the_run_reports_the_best_checkpoint(run):
    result, _, _ = run
    log = json.loads((result.output_dir / "trainer_state.json").read_text())["log_history"]
    scores = [entry["eval_AP"] for entry in log if "eval_AP" in entry]
    assert len(scores) == 2
    assert result.best_metric == max(scores) == result.metrics["AP"]
    assert result.best_metric_name == "AP"
    assert set(result.metrics) >= {"AP", "AP50", "APs"}


def test_the_saved_model_is_the_best_checkpoint(run, scenes):
    result, _, _ = run
    best = result.trainer.state.best_model_checkpoint
    saved, kept = (load_file(f"{folder}/model.safetensors") for folder in (result.model, best))
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], value) for name, value in kept.items())
    names = Detector.from_pretrained(result.model).model.config.id2label.values()
    assert tuple(names) == scenes.class_names


def test_messages_reach_the_caller_and_nothing_is_printed(run, start, scenes, tmp_path, capsys):
    result, messages, steps = run
    assert tuple(messages) == result.notes
    assert "Data: 10 training images, 4 validation images." in messages
    assert any(message.startswith("Classes: 2 → 8") for message in messages)
    assert steps == result.trainer.state.global_step > 0
    train(scenes, model=start, output_dir=tmp_path, epochs=1, **QUICK)
    captured = capsys.readouterr()
    assert captured.out == ""


def test_a_folder_trains_like_its_dataset(run, start, scenes_folder, tmp_path):
    result, _, _ = run
    again = train(str(scenes_folder), model=start, output_dir=tmp_path, epochs=2, **QUICK)
    first, second = (load_file(f"{folder}/model.safetensors") for folder in (result.model, again.model))
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_named_options_are_fields_and_settings_override_them(start, scenes, tmp_path):
    settings = {**QUICK["settings"], "max_steps": 1, "learning_rate": 3e-4, "edges": (48, 64)}
    options = {"batch_size": 2, "learning_rate": 1e-3, "freeze": ["encoder"], "seed": 5, "workers": 0}
    result = train(scenes, model=start, output_dir=tmp_path, settings=settings, **options)
    args = result.trainer.args
    assert (args.per_device_train_batch_size, args.learning_rate, args.seed) == (2, 3e-4, 5)
    assert not any(value.requires_grad for value in result.trainer.model.model.encoder.parameters())
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())["training"]
    assert written["edges"] == [48, 64]
    longer = {**settings, "max_steps": 2}
    resumed = train(scenes, model=start, output_dir=tmp_path, settings=longer, resume=True, **options)
    assert resumed.trainer.state.global_step == 2


def test_a_misspelt_setting_gets_a_suggestion(start, scenes, tmp_path):
    with pytest.raises(ValueError, match="no field 'learning_rat'; did you mean 'learning_rate'"):
        train(scenes, model=start, output_dir=tmp_path, settings={"learning_rat": 1})


def test_faulty_data_raise_with_their_report(start, scenes, tmp_path):
    image = scenes.split("train")[0]
    outside = replace(image, path=tmp_path / "missing.png")
    faulty = replace(scenes, splits={**scenes.splits, "train": (outside, *scenes.split("train")[1:])})
    with pytest.raises(FaultyDatasetError, match=r"missing\.png") as caught:
        train(faulty, model=start, output_dir=tmp_path / "run")
    assert caught.value.report.findings
    assert not (tmp_path / "run").exists()
    result = train(faulty, model=start, output_dir=tmp_path / "run", clean=True, epochs=1, **QUICK)
    assert len(result.trainer.train_dataset) == len(scenes.split("train")) - 1


def test_boxes_of_unknown_meaning_are_not_cleaned_but_asked_about(start, tmp_path):
    """They fit the image, and also the other size that the file states."""
    (tmp_path / "data").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "data" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 200}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 40, 50], "area": 2000, "iscrowd": 0}
        ],
    }
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(content))
    for clean in (False, True):
        with pytest.raises(FaultyDatasetError, match=r"--boxes-in image\|stated"):
            preview(tmp_path / "data", model=start, clean=clean, **QUICK)


def test_preview_draws_the_asked_number_of_samples(start, scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sheet = preview(scenes, model=start, count=4, **QUICK)
    assert isinstance(sheet, Image.Image)
    assert sheet.size == (640, 640)
    other = preview(scenes, model=start, count=4, **{**QUICK, "seed": 1})
    assert (np.asarray(sheet) != np.asarray(other)).any()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("fresh", "steps"), [(False, 400), (True, 1500)])
def test_a_fresh_model_gets_more_steps_to_overfit(start, scenes, tmp_path, monkeypatch, fresh, steps):
    asked = []

    def overfit(*arguments):
        asked.append(arguments[4])
        return OverfitResult(95.0)

    (tmp_path / "fresh.yaml").write_text(yaml.safe_dump({"model": TINY}))
    monkeypatch.setattr(training_workflow, "overfit", overfit)
    model = tmp_path / "fresh.yaml" if fresh else start
    assert check_overfit(scenes, model=model, **QUICK).verdict == "passed"
    assert asked == [steps]


def test_unknown_options_are_refused(scenes):
    with pytest.raises(TypeError, match="mdoel"):
        preview(scenes, mdoel="facebook/detr-resnet-50")


def test_an_unreadable_dataset_is_named(start, tmp_path):
    with pytest.raises(FaultyDatasetError, match="no such file or folder"):
        train(tmp_path / "none", model=start, output_dir=tmp_path / "run", clean=True)


def test_evaluate_finds_the_reported_ap_in_the_saved_model(scenes, tmp_path):
    settings = {**QUICK["settings"], "max_steps": 1}
    result = train(scenes, model="detr-mobilenetv2-scenes", output_dir=tmp_path, workers=0, settings=settings)
    assert result.metrics["AP"] > 30
    assert evaluate(result.model, scenes, split="val").summary["AP"] == pytest.approx(result.metrics["AP"], abs=1e-4)
