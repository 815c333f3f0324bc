"""The folders that are written for a Space and for an Inference Endpoint."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml
from packaging.requirements import Requirement
from tiny_detector import save, tiny_detector
from typer.testing import CliRunner

from serving.conftest import png
from transformers_detr import cli
from transformers_detr.hub.model_files import model_files
from transformers_detr.inference.detector import Detector


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in ("serve", *arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tiny_detector(), tmp_path_factory.mktemp("models") / "a tiny one")


@pytest.fixture(scope="module")
def space(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "space"
    result = run(
        "--write", "space", "--output", folder, "--model", model, "--model", "facebook/detr-resnet-50-panoptic"
    )
    assert result.exit_code == 0, result.output
    return folder


def test_a_space_of_a_training_run_holds_the_model_alone(model, tmp_path):
    """No checkpoints, optimizer state, logs, or pages that show training images."""
    belongs = {
        *(
            "config.json",
            "preprocessor_config.json",
            "model.safetensors",
            "README.md",
            "onnx/model.onnx",
            "onnx/model_quantized.onnx",
        ),
        *("torch/model.pt2", "openvino/openvino_model.xml", "openvino/openvino_model.bin", "evaluation/metrics.json"),
    }
    others = {
        *("checkpoint-8/config.json", "checkpoint-8/model.safetensors", "checkpoint-8/optimizer.pt", "optimizer.pt"),
        *("runs/Nov28/events.out.tfevents.1", "training.html", "preview.jpg", "evaluation/worst_images.jpg", "log.txt"),
        *("evaluation/report.html", "trainer_state.json", "training_weights.safetensors", ".env", "images/000001.jpg"),
        *("pytorch_model.bin", "checkpoint-8/evaluation/metrics.json", "recipe.yaml", "openvino/cache/model.bin"),
    }
    folder = tmp_path / "run"
    for name in belongs | others:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        source = model / name
        (folder / name).write_bytes(source.read_bytes() if source.is_file() else name.encode())
    result = run("--write", "space", "--output", tmp_path / "space", "--model", folder)
    assert result.exit_code == 0, result.output
    written = tmp_path / "space" / "models" / "run"
    assert {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()} == belongs
    assert set(model_files(folder)[1]) == others


def test_a_space_has_what_the_hub_wants(space, model):
    _, header, _ = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    values = yaml.safe_load(header)
    assert (values["sdk"], values["app_file"]) == ("gradio", "app.py")
    assert len(values["short_description"]) <= 60
    requirements = [Requirement(line).name for line in (space / "requirements.txt").read_text().splitlines()]
    assert {"torch", "transformers", "fastapi", "uvicorn", "prometheus-client"} <= set(requirements)
    assert "tensorboard" not in requirements
    assert (space / "models.txt").read_text() == "a tiny one=models/a tiny one\nfacebook/detr-resnet-50-panoptic\n"
    for name in ("config.json", "model.safetensors"):
        assert (space / "models/a tiny one" / name).read_bytes() == (model / name).read_bytes()
    assert (space / "transformers_detr/serving/page/index.html").is_file()
    assert not list(space.rglob("__pycache__"))
    assert 'CMD ["python", "app.py"]' in (space / "Dockerfile").read_text()


def test_the_handler_answers_as_the_detector_does(model, images, tmp_path):
    folder = tmp_path / "endpoint"
    assert run("--write", "endpoint", "--output", folder).exit_code == 0
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "handler.py", "requirements.txt", "transformers_detr",
    }  # fmt: skip
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.EndpointHandler(str(model))
    image, content = images[0], png(images[0])
    expected = Detector.from_pretrained(model, device="cpu")(image, threshold=0.5).to_dict(integer_pixels=True)
    for inputs in (image, content, base64.b64encode(content).decode()):
        responses = handler({"inputs": inputs, "parameters": {"threshold": 0.5}})
        assert [response["label"] for response in responses] == [entry["label"] for entry in expected]
        assert [response["score"] for response in responses] == pytest.approx(
            [entry["score"] for entry in expected], abs=1e-5
        )
        assert json.dumps(responses)
    with pytest.raises(Exception, match="not an image"):
        handler({"inputs": b"x"})


def test_mistakes_are_told(tmp_path):
    (tmp_path / "there").mkdir()
    assert "exists already" in run("--write", "space", "--output", tmp_path / "there").stderr
    assert (
        "no such folder" in run("--write", "space", "--output", tmp_path / "new", "--model", tmp_path / "none").stderr
    )
    assert not (tmp_path / "new").exists()
    assert "need each other" in run("--write", "space").stderr
    twice = run("--model", tmp_path / "there", "--model", f"there={tmp_path}")
    assert twice.exit_code == 2
    assert "two models are called there" in twice.stderr


@pytest.mark.slow
def test_the_space_runs_by_its_own_code(space, images):
    """app.py in a process of its own; half a minute."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port)}
    where = "import transformers_detr; print(transformers_detr.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=space, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(space))
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        request = urllib.request.Request(f"http://127.0.0.1:{port}/?threshold=0", data=png(images[0]))
        request.add_header("Content-Type", "image/png")
        with urllib.request.urlopen(request, timeout=60) as response:
            assert len(json.load(response)) == 12
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
