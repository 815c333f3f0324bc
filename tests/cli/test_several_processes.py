"""`detr train` and `detr evaluate` as torchrun starts them in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from training.conftest import TINY
from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.data.synthetic import write_scenes


def detr(processes, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--module", "transformers_detr.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def start(tmp_path):
    """A model to start from, and data."""
    torch.manual_seed(0)
    DetrForObjectDetection(DetrConfig(**TINY, num_labels=8)).save_pretrained(tmp_path / "start")
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path / "start")
    write_scenes(tmp_path / "data" / "train", 9, seed=1)
    write_scenes(tmp_path / "data" / "val", 5, seed=2)
    return tmp_path


def train(folder, name, *options):
    on_cpu = ("--set", "use_cpu=true") if torch.accelerator.is_available() else ()  # elsewhere it goes without saying
    settings = ("--epochs", 1, *on_cpu, "--workers", 0, *options)
    places = ("--data", folder / "data", "--model", folder / "start", "--output", folder / name)
    return detr(2, "train", *places, *settings).stderr


@pytest.mark.slow
def test_two_processes_train_and_evaluate_by_the_command(start, tmp_path):
    """Takes a minute."""
    data, model = ("--data", start / "data"), start / "trained"
    told = train(start, "trained")
    assert told.count("Try it:") == 1
    assert [path.name for path in model.glob("checkpoint-*")] == ["checkpoint-2"]  # three batches: one process takes 3
    for processes in (1, 2):
        detr(processes, "evaluate", *data, "--model", model, "--output", tmp_path / str(processes))
    one, two = (tmp_path / name / "predictions.jsonl" for name in "12")
    assert one.read_bytes() == two.read_bytes()
    metrics = json.loads((tmp_path / "2" / "metrics.json").read_text())
    assert metrics["images"] == 5


@pytest.mark.slow
def test_weights_that_are_shared_out_learn_the_same(start):
    """FSDP; takes a minute."""
    train(start, "whole")
    train(start, "shared", "--set", "fsdp=true")
    whole, shared = (load_file(start / name / "model.safetensors") for name in ("whole", "shared"))
    before = load_file(start / "start" / "model.safetensors")
    assert whole.keys() == shared.keys()
    moved = max((whole[name] - before[name]).abs().max() for name in before if name in whole)
    assert max((whole[name] - shared[name]).abs().max() for name in whole) < moved / 20
