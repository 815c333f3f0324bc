"""A pushed model, by its name, in a process that has transformers but not this package."""

import json
import os
import subprocess
import sys

import pytest
import torch
from local_hub.steps import push
from PIL import Image
from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_BACKBONE

from transformers_detr import DetrImageProcessor

NAME = "an-org/detr-tiny"
SIZE = (64, 96)  # height and width, which the processor leaves as they are, in stock as well


@pytest.fixture
def one_thread():
    """As in the clean process, for sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_pushed_model_loads_both_ways_and_gives_the_same_boxes(hub, repository, tmp_path):
    detector = tiny_detector(backbone=None, backbone_config=NATIVE_BACKBONE)
    detector.image_processor = DetrImageProcessor(size={"shortest_edge": SIZE[0], "longest_edge": 2 * SIZE[0]})
    folder = save(detector, tmp_path / "model")
    pushed = hub.call(push, folder, NAME, "--with-custom-code")
    assert pushed["status"] == 0, pushed
    pixels = torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "noise.png")

    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_MODULES_CACHE": str(tmp_path / "home" / "modules"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    script = repository / "tests" / "architecture" / "clean_process.py"
    blocked = "transformers_detr,scipy,faster_coco_eval,requests,supervision"
    command = [sys.executable, script, blocked, tmp_path / "noise.png", tmp_path / "result.json", NAME]
    done = subprocess.run(list(map(str, command)), env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())
    custom, stock = found["detr-tiny/custom"], found["detr-tiny/stock"]

    assert found["imported"] == []
    assert custom["model"].startswith("transformers_modules.an_hyphen_org.detr_hyphen_tiny.")
    assert stock["model"].startswith("transformers.models.detr.")
    with torch.no_grad():
        outputs = detector.model(**detector.image_processor(Image.open(tmp_path / "noise.png"), return_tensors="pt"))
    boxes = outputs.pred_boxes.flatten().tolist()
    assert custom["outputs"]["pred_boxes"] == boxes
    assert stock["outputs"]["pred_boxes"] == pytest.approx(boxes, abs=1e-5)
    assert custom["outputs"]["logits"] == outputs.logits.flatten().tolist()
    assert stock["outputs"]["logits"] == pytest.approx(outputs.logits.flatten().tolist(), rel=1e-5, abs=1e-4)
    assert custom["pipeline"]
    assert [answer["box"] for answer in custom["pipeline"]] == [answer["box"] for answer in stock["pipeline"]]
