from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from training import killed_training, two_processes
from transformers_detr import DetrForObjectDetection, DetrForSegmentation
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.predict import plan_batches, predict
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.trainer import DetrTrainer, parameter_groups


@pytest.fixture
def trainer(tiny_model, arguments, scenes, processor):
    """Function `(**arguments) -> DetrTrainer`."""
    return lambda **changes: DetrTrainer(tiny_model(), arguments(**changes), scenes, processor)


def test_a_checkpoint_is_a_plain_model_that_stock_transformers_loads(trainer):
    run = trainer(query_groups=2, token_weight=1.0, train_batch_norm=True, ema_decay=0.9)
    run.train()
    folder = Path(run.state.best_model_checkpoint)
    plain = DetrForObjectDetection.from_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["DetrForObjectDetection"]
    assert set(load_file(folder / "model.safetensors")) == set(plain.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = run.model_to_use.eval()(images)
        ours = plain(images)
        stock = transformers.DetrForObjectDetection.from_pretrained(folder).eval()(images)
    torch.testing.assert_close(ours.logits, wanted.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stock.pred_boxes, ours.pred_boxes, rtol=1e-4, atol=1e-4)


def test_the_weights_of_the_average_are_scored_and_kept(trainer):
    run = trainer(ema_decay=0.5, num_train_epochs=2)
    run.train()
    assert not torch.equal(run.model.class_labels_classifier.weight, run.model_to_use.class_labels_classifier.weight)
    saved = load_file(Path(run.state.best_model_checkpoint) / "model.safetensors")
    assert torch.equal(saved["class_labels_classifier.weight"], run.model_to_use.class_labels_classifier.weight)


def test_ap_during_training_is_that_of_the_scorer(trainer, scenes, processor):
    run = trainer()
    batches = plan_batches(scenes.split("val"), 1, True)
    found = [item for batch in predict(run.model.eval(), processor, batches) for item in batch]
    wanted = score_detections(scenes.to_coco("val"), found).summary
    measured = run.evaluate()
    assert {name: measured[f"eval_{name}"] for name in wanted} == pytest.approx(wanted, abs=1e-6, nan_ok=True)


def test_the_backbone_learns_at_its_own_rate(tiny_model):
    model = tiny_model()
    model.model.encoder.requires_grad_(False)
    rest, backbone = parameter_groups(model, 1e-3, 0.1)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(parameter) for group in (rest, backbone) for parameter in group["params"]} == trained
    assert rest["lr"] == 1e-3
    assert backbone["lr"] == pytest.approx(1e-4)
    of_backbone = {id(parameter) for parameter in model.model.backbone.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in backbone["params"]} == of_backbone


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"lr_drop": 0.5, "warmup_steps": 2}, [0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        ({"lr_gamma": 0.5, "per_device_train_batch_size": 5}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ({"lr_scheduler_type": "constant"}, [1] * 8),
    ],
)
def test_schedules(trainer, changes, wanted):
    run = trainer(max_steps=8, eval_strategy="no", save_strategy="no", load_best_model_at_end=False, **changes)
    run.train()
    rates = [entry["learning_rate"] / 1e-4 for entry in run.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ({"class 1": 4, "3": 0.5}, [1, 4, 1, 0.5, 1, 1, 1, 1]),
        ('{"class 7": 2}', [1] * 7 + [2]),
        ({2: 0}, [1, 1, 0, 1, 1, 1, 1, 1]),
    ],
)
def test_weights_of_classes_by_name_or_id(trainer, given, weights):
    run = trainer(class_weights=given, no_object_weight=0.4)
    assert run.model.config.class_weights == weights
    assert run.model.config.eos_coefficient == 0.4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"claas 1": 4}, "class_weights: 'claas 1' is neither a class"),
        ({8: 4}, "class_weights: '8' is neither a class"),
        ({"class 1": -1}, "class_weights must be numbers, at least 0"),
        ({"class 1": "many"}, "class_weights must be numbers, at least 0"),
        ("[1, 2]", "class_weights must be numbers, at least 0"),
    ],
)
def test_wrong_weights_of_classes_are_refused(trainer, given, message):
    with pytest.raises(ValueError, match=message):
        trainer(class_weights=given)


def test_a_step_that_is_not_finite_is_skipped_and_reported(trainer, caplog):
    run = trainer(max_steps=3, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
    steps = []
    forward = run.compute_loss

    def poisoned(model, inputs, **kwargs):
        steps.append({name: value.clone() for name, value in model.state_dict().items()})
        return forward(model, inputs, **kwargs) * (float("nan") if len(steps) == 2 else 1)

    run.compute_loss = poisoned
    with caplog.at_level(logging.WARNING):
        run.train()
    assert "Step 2 is skipped: its gradients are not finite" in caplog.text
    name = "model.encoder.layers.0.fc1.weight"
    assert not torch.equal(steps[0][name], steps[1][name])
    assert torch.equal(steps[1][name], steps[2][name])
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def alike(scenes):
    """A dataset whose training images are all the same one."""
    images = tuple(replace(scenes.split("train")[0], id=number) for number in range(4))
    return replace(scenes, splits={**scenes.splits, "train": images})


@pytest.mark.parametrize("changes", [{}, {"query_groups": 2}])
def test_accumulated_batches_weigh_as_one(tiny_model, arguments, scenes, processor, changes):
    norms = []
    for batch_size, accumulated in ((4, 1), (2, 2), (1, 4)):
        values = {
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulated,
            "augmentation": "none",
            "edges": [64],
            "max_steps": 1,
        }
        run = DetrTrainer(tiny_model(dropout=0.0), arguments(**values, **changes), alike(scenes), processor)
        run.train()
        norms.append(next(entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry))
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


def first_loss(run):
    run.train()
    return next(entry["loss"] for entry in run.state.log_history if "loss" in entry)


@pytest.mark.parametrize("helpers", [{}, {"query_groups": 2, "token_weight": 1.0}])
def test_checkpointed_activations_change_nothing(tiny_model, arguments, scenes, processor, helpers):
    fields = DetrTrainingArguments.__dataclass_fields__  # renamed in transformers 5.2x
    name = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    losses = []
    for checkpointing in (False, True):
        values = {name: checkpointing, "max_steps": 2, **helpers}
        run = DetrTrainer(tiny_model(dropout=0.0), arguments(**values), scenes, processor)
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_in_bfloat16_the_loss_is_nearly_the_same_and_weights_stay_float32(trainer):
    exact, rounded = trainer(max_steps=1), trainer(max_steps=1, bf16=True, token_weight=0.0)
    assert first_loss(rounded) == pytest.approx(first_loss(exact), rel=0.02)
    assert {value.dtype for value in rounded.model.parameters()} == {torch.float32}


def test_training_stops_when_ap_does_not_rise(trainer):
    run = trainer(num_train_epochs=50, early_stopping_patience=2, learning_rate=0.0)
    run.train()
    assert run.state.epoch == 3  # the first is the best there is, two more are waited for


def test_a_model_with_masks_trains_and_is_scored_by_masks_too(tiny_model, arguments, scenes, processor):
    model = DetrForSegmentation.from_detector(tiny_model(encoder_attention_heads=8, decoder_attention_heads=8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = DetrTrainer(model, arguments(train_whole_backbone=False, max_steps=2), scenes, processor)
    run.train()
    logged = [name for entry in run.state.log_history for name in entry]
    assert {"loss_mask", "loss_dice", "eval_AP", "eval_mask_AP"} <= set(logged)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(("bbox_attention.", "mask_head.")) for name in changed)
    assert run.args.metric_for_best_model == "eval_mask_AP"  # that of boxes cannot change
    again = DetrForSegmentation.from_pretrained(run.state.best_model_checkpoint)
    assert again.config.architectures == ["DetrForSegmentation"]


@pytest.mark.parametrize(
    ("masks", "changes", "message"),
    [(False, {"masks": True}, "has no mask head"), (True, {"token_weight": 1.0}, "are for detectors")],
)
def test_what_a_model_cannot_learn_is_refused(tiny_model, arguments, scenes, processor, masks, changes, message):
    model = tiny_model(encoder_attention_heads=8, decoder_attention_heads=8)
    if masks:
        model = DetrForSegmentation.from_detector(model)
    with pytest.raises(ValueError, match=message):
        DetrTrainer(model, arguments(**changes), scenes, processor)


def test_the_log_has_the_terms_of_the_loss(trainer):
    run = trainer(max_steps=2, token_weight=1.0)
    run.train()
    logged = next(entry for entry in run.state.log_history if "loss" in entry)
    assert {"loss_ce", "loss_bbox", "loss_giou", "class_error", "cardinality_error", "loss_tokens"} <= logged.keys()


def test_at_most_the_wanted_checkpoints_stay(trainer):
    run = trainer(num_train_epochs=4, save_total_limit=2)
    run.train()
    folder = Path(run.args.output_dir)
    kept = sorted(path.name for path in folder.iterdir())
    assert len(kept) == 2
    assert Path(run.state.best_model_checkpoint).name in kept
    assert f"checkpoint-{run.state.global_step}" in kept


def train_and_kill(scenes_folder, output, at_step):
    """Start a training in a process of its own and kill it when a checkpoint appears."""
    script = Path(killed_training.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent.parent)}
    with (output.parent / "errors.txt").open("wb") as errors:
        command = [sys.executable, str(script), str(scenes_folder), str(output)]
        process = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
    deadline = time.monotonic() + 300
    while not (output / f"checkpoint-{at_step}").exists():
        assert process.poll() is None, (output.parent / "errors.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was over before it was killed"


def test_a_killed_training_goes_on_as_if_nothing_had_happened(scenes_folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_and_kill(scenes_folder, killed, at_step=8)  # in the middle of the second epoch
    checkpoints = list(killed.glob("checkpoint-*"))
    assert len(checkpoints) >= 8
    for checkpoint in checkpoints:  # every one is whole, the newest included
        DetrForObjectDetection.from_pretrained(checkpoint)
        json.loads((checkpoint / "trainer_state.json").read_text())
        torch.load(checkpoint / "optimizer.pt", weights_only=True)
        load_file(checkpoint / "training_weights.safetensors")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        killed_training.run(scenes_folder, killed)
        killed_training.run(scenes_folder, whole)
    finally:
        torch.set_num_threads(threads)
    curves = [json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in (whole, killed)]
    for name in ("loss", "grad_norm", "eval_AP", "learning_rate"):
        wanted, found = ([entry[name] for entry in curve if name in entry] for curve in curves)
        assert wanted == pytest.approx(found, rel=1e-5, nan_ok=True)
        assert len(wanted) >= 3
    weights, again = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert weights.keys() == again.keys()
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=1e-6)


def test_two_processes_train_one_model_and_score_every_image_once(scenes_folder, processor, tmp_path):
    script, output = Path(two_processes.__file__), tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent.parent)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(scenes_folder), str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if Path("/proc/self/task").is_dir():
        assert all("pt_gloo_runloop" in json.loads((output / f"threads{rank}.json").read_text()) for rank in range(2))
    result = json.loads((output / "result.json").read_text())
    assert result["equal"]
    assert result["steps"] == 6  # 10 images: 5 or 6 batches of 2 by shape, so 3 steps of both processes an epoch
    dataset = DetectionDataset.load(scenes_folder)
    for checkpoint in output.glob("checkpoint-*"):
        model = DetrForObjectDetection.from_pretrained(checkpoint)
        found = [item for batch in predict(model, processor, [[r] for r in dataset.split("val")]) for item in batch]
        step = int(checkpoint.name.rpartition("-")[2])
        measured = next(e for e in result["history"] if e["step"] == step and "eval_AP" in e)
        wanted = score_detections(dataset.to_coco("val"), found).summary
        assert {name: measured[f"eval_{name}"] for name in wanted} == pytest.approx(wanted, abs=1e-6, nan_ok=True)
