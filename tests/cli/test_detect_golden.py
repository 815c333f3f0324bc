"""`detr detect` with a model of full size on photographs: forty results, whatever the batch, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from key_map import to_stored
from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.hub.class_names import COCO_NAMES

SIDES = ("xmin", "ymin", "xmax", "ymax")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(golden_state_dict, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detr-r50")
    detr = DetrForObjectDetection(DetrConfig(id2label=COCO_NAMES, label2id={v: k for k, v in COCO_NAMES.items()}))
    detr.load_state_dict(to_stored(golden_state_dict("detr-r50")))
    detr.save_pretrained(folder)
    DetrImageProcessor().save_pretrained(folder)
    return folder


def start(model, photos, output, batch_size, *more):
    command = [sys.executable, "-c", "from transformers_detr.cli import main; main()", "detect", str(photos)]
    command += ["--model", str(model), "--output", str(output), "--batch-size", str(batch_size), "--threshold", "0"]
    return subprocess.Popen([*command, "--no-images", *more])


def records_of(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[1:]]


def test_forty_photographs(model, shared_path, tmp_path):
    photos = shared_path("data", "coco_mini", "val2017")
    assert start(model, photos, tmp_path / "four", 4).wait() == 0
    assert start(model, photos, tmp_path / "one", 1).wait() == 0
    together, alone = records_of(tmp_path / "four"), records_of(tmp_path / "one")
    assert len(together) == len(alone) == 40
    for found, expected in zip(together, alone, strict=True):
        assert found["uri"] == expected["uri"]
        assert len(found["detections"]) == len(expected["detections"]) == 100
        one, other = (np.array([[e[side] for side in SIDES] for e in r["detections"]]) for r in (found, expected))
        scores = [np.array([entry["score"] for entry in r["detections"]]) for r in (found, expected)]
        cost = np.abs(one[:, None] - other[None]).sum(-1) + 1000 * np.abs(scores[0][:, None] - scores[1][None])
        rows, columns = linear_sum_assignment(cost)  # near-equal scores may be sorted differently
        np.testing.assert_allclose(scores[0][rows], scores[1][columns], atol=1e-3)
        np.testing.assert_allclose(one[rows], other[columns], atol=0.1)

    killed = start(model, photos, tmp_path / "killed", 4)
    records = tmp_path / "killed" / "predictions.jsonl"
    while not (records.exists() and records.read_bytes().count(b"\n") >= 18):
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert records.read_bytes().count(b"\n") < 40
    assert start(model, photos, tmp_path / "killed", 4, "--resume").wait() == 0
    for name in ("predictions.jsonl", "coco_results.json", "predictions.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "four" / name).read_bytes()
