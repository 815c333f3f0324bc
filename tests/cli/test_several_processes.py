"""`detr train` and `detr evaluate` as torchrun starts them in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from training.conftest import TINY
from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.data.scenes import write_scenes


def detr(processes, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--module", "transformers_detr.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_two_processes_train_and_evaluate_by_the_command(tmp_path):
    """Takes a minute."""
    torch.manual_seed(0)
    DetrForObjectDetection(DetrConfig(**TINY, num_labels=8)).save_pretrained(tmp_path / "start")
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(tmp_path / "start")
    write_scenes(tmp_path / "data" / "train", 9, seed=1)
    write_scenes(tmp_path / "data" / "val", 5, seed=2)
    data, model = ("--data", tmp_path / "data"), tmp_path / "trained"
    settings = ("--epochs", 1, "--set", "use_cpu=true", "--workers", 0)
    told = detr(2, "train", *data, "--model", tmp_path / "start", "--output", model, *settings).stderr
    assert told.count("Try it:") == 1
    for processes in (1, 2):
        detr(processes, "evaluate", *data, "--model", model, "--output", tmp_path / str(processes))
    one, two = (tmp_path / name / "predictions.jsonl" for name in "12")
    assert one.read_bytes() == two.read_bytes()
    metrics = json.loads((tmp_path / "2" / "metrics.json").read_text())
    assert metrics["images"] == 5
