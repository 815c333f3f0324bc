"""`detr train`: from a folder of labeled images to a folder with a model."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from data.conftest import WRITERS
from training.conftest import TINY
from transformers_detr import DetrConfig, DetrForObjectDetection, DetrForSegmentation, DetrImageProcessor, cli
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import CLASS_NAMES, make_scene

QUICK = ("--set", "use_cpu=true", "--set", "report_to=none", "--workers", "0", "--epochs", "1")


def run(*arguments):
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model of three classes, one of which the scenes have too."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    names = {0: "dog", 1: "Star", 2: "cat"}
    config = DetrConfig(**TINY, id2label=names, label2id={name: label for label, name in names.items()})
    DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    scenes = functools.cache(functools.partial(make_scene, 21))
    return functools.cache(lambda name: WRITERS[name](tmp_path_factory.mktemp(name) / "dataset", scenes))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_trains_an_epoch(name, written, model, tmp_path):
    output = tmp_path / "run"
    result = run("--data", written(name), "--model", model, "--output", output, *QUICK)
    assert result.exit_code == 0, result.output
    assert "8 training images, 4 validation images" in result.output
    assert "Classes: 3 → 8" in result.output
    assert "new, except for star and “no object”" in result.output
    assert "best AP" in (output / "training.html").read_text(encoding="utf-8")
    trained = DetrForObjectDetection.from_pretrained(output)
    assert trained.config.id2label == DetectionDataset.load(written(name)).id2label
    assert set(trained.config.id2label.values()) == set(CLASS_NAMES)
    processor = DetrImageProcessor.from_pretrained(output)
    image = make_scene(21, 0).image
    outputs = trained(**processor(image, return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, 0.0, [image.size[::-1]])
    assert len(found["labels"]) == 20
    state = json.loads((output / "trainer_state.json").read_text())
    assert any("eval_AP" in entry for entry in state["log_history"])


def test_the_settings_are_written_down_and_are_a_recipe(written, model, tmp_path):
    output = tmp_path / "run"
    assert run("--data", written("coco"), "--model", model, "--output", output, *QUICK, "--lr", "2e-4").exit_code == 0
    content = yaml.safe_load((output / "recipe.yaml").read_text())
    assert content["training"]["learning_rate"] == 2e-4
    assert content["model"] == str(model)
    again = run("--data", written("coco"), "--model", output / "recipe.yaml", "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    weights, repeated = (load_file(folder / "model.safetensors") for folder in (output, tmp_path / "again"))
    assert all(torch.equal(repeated[name], value) for name, value in weights.items())


def test_a_recipe_starts_a_fresh_model(written, tmp_path):
    recipe = {"model": TINY, "processor": {"size": {"shortest_edge": 64, "longest_edge": 96}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    command = ("--data", written("coco"), "--model", tmp_path / "mine.yaml", "--output", tmp_path / "run", *QUICK)
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "starts without pretrained weights, and 8 images are few" in result.output
    assert DetrForObjectDetection.from_pretrained(tmp_path / "run").config.d_model == 32


def test_a_training_is_not_overwritten_and_can_go_on(written, model, tmp_path):
    output = tmp_path / "run"
    command = ("--data", written("coco"), "--model", model, "--output", output, *QUICK)
    assert run(*command).exit_code == 0
    refused = run(*command)
    assert refused.exit_code == 1
    assert "already holds a training; resume it (--resume)" in refused.output
    further = run(*command[:-1], "2", "--resume")
    assert further.exit_code == 0, further.output
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["epoch"] == 2
    otherwise = run(*command, "--resume", "--lr", "0.5")
    assert otherwise.exit_code == 1
    assert "started with other settings: learning_rate was 5e-05 and is now 0.5" in otherwise.output
    nothing = run("--data", written("coco"), "--model", model, "--output", tmp_path / "other", *QUICK, "--resume")
    assert nothing.exit_code == 1
    assert "holds no checkpoint to resume from" in nothing.output


def test_masks_are_learned_too(written, tmp_path):
    folder, output = tmp_path / "model", tmp_path / "run"
    config = {**TINY, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    DetrForObjectDetection(DetrConfig(**config)).save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    result = run("--data", written("coco"), "--model", folder, "--output", output, "--masks", *QUICK)
    assert result.exit_code == 0, result.output
    assert "Best mask AP on the validation images" in result.output
    assert f"detr segment PHOTO --model {output}" in " ".join(result.output.split())
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert {"loss_dice", "loss_mask", "eval_mask_AP"} <= {name for entry in log for name in entry}
    assert (
        DetrForSegmentation.from_pretrained(output).config.id2label == DetectionDataset.load(written("coco")).id2label
    )
    assert yaml.safe_load((output / "recipe.yaml").read_text())["training"]["masks"]
    without = run("--data", written("voc"), "--model", output, "--output", tmp_path / "other", *QUICK)
    assert without.exit_code == 1
    assert "scene00.xml, image 0, object 1: has no mask; training masks needs one" in without.output


def test_a_preview_shows_what_the_model_would_see(written, model, tmp_path):
    result = run("--data", written("yolo"), "--model", model, "--output", tmp_path / "run", *QUICK, "--preview")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "run" / "preview.jpg") as sheet:
        assert sheet.size == (1600, 1600)
        assert len(np.unique(np.asarray(sheet.resize((40, 40))).reshape(-1, 3), axis=0)) > 200
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_faulty_data_is_named_before_anything_is_trained(written, model, tmp_path):
    faulty = tmp_path / "faulty"
    scenes = functools.cache(functools.partial(make_scene, 21))
    WRITERS["coco"](faulty, scenes)
    (faulty / "train2017" / "scene00.png").unlink()
    command = ("--data", faulty, "--model", model, "--output", tmp_path / "run", *QUICK)
    refused = run(*command)
    assert refused.exit_code == 1
    assert "scene00.png" in refused.output
    assert "Repair the dataset, or leave the faulty entries out with clean=True (--clean)" in refused.output
    cleaned = run(*command, "--clean")
    assert cleaned.exit_code == 0, cleaned.output
    assert "7 training images" in cleaned.output


def test_more_objects_than_queries_get_more_queries(written, tmp_path):
    small = tmp_path / "model"
    DetrForObjectDetection(DetrConfig(**{**TINY, "num_queries": 2}, num_labels=1)).save_pretrained(small)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(small)
    result = run("--data", written("coco"), "--model", small, "--output", tmp_path / "run", *QUICK)
    assert result.exit_code == 0, result.output
    assert "Queries: 2 → " in result.output
    assert DetrForObjectDetection.from_pretrained(tmp_path / "run").config.num_queries > 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in peft
def test_lora_is_merged_into_plain_weights(written, model, tmp_path):
    pytest.importorskip("peft")
    command = ("--data", written("coco"), "--model", model, "--output", tmp_path / "run", *QUICK)
    result = run(*command, "--lora", "2", "--lr", "0.01")
    assert result.exit_code == 0, result.output
    before, after = (DetrForObjectDetection.from_pretrained(folder) for folder in (model, tmp_path / "run"))
    name = "model.encoder.layers.0.self_attn.q_proj.weight"
    difference = after.state_dict()[name] - before.state_dict()[name]
    assert 0 < torch.linalg.matrix_rank(difference) <= 2
    backbone = "model.backbone.conv_encoder.model.layer4.0.conv1.weight"
    assert torch.equal(after.state_dict()[backbone], before.state_dict()[backbone])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "DetrTrainingArguments has no field 'learning_rat'"),
        ("learning_rate", "must be NAME=VALUE"),
        ("augmentation=mosaic", "augmentation must be one of"),
        ("freeze=[tail]", "'tail' is no part of the model"),
    ],
)
def test_wrong_settings_are_named(written, model, tmp_path, setting, message):
    result = run("--data", written("coco"), "--model", model, "--output", tmp_path / "run", *QUICK, "--set", setting)
    assert result.exit_code == 1
    assert message in result.output


def test_an_unknown_model_is_named(written, tmp_path):
    result = run("--data", written("coco"), "--model", tmp_path / "none", "--output", tmp_path / "run", *QUICK)
    assert result.exit_code == 1
    assert "no such folder" in result.output


def test_the_curve_goes_to_tensorboard(written, model, tmp_path):
    pytest.importorskip("tensorboard")
    output = tmp_path / "run"
    settings = (*QUICK, "--set", "report_to=tensorboard", "--set", "logging_steps=1")
    result = run("--data", written("coco"), "--model", model, "--output", output, *settings)
    assert result.exit_code == 0, result.output
    (events,) = output.rglob("events.out.tfevents.*")
    assert b"loss_giou" in events.read_bytes()
    assert b"AP50" in events.read_bytes()
