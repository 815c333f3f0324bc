"""Each command over one folder of a tiny pre-norm model: they are the same code paths as for a DETR."""

import json
import shutil

import numpy as np
import pytest
import torch
from local_hub.process import running_hub
from local_hub.steps import push
from PIL import Image
from safetensors.torch import load_file
from tiny_detector import save, tiny_detector
from typer.testing import CliRunner

from serving.conftest import png, running
from training.conftest import TINY
from transformers_detr import Detector, DetrConfig, TableTransformerForObjectDetection, train
from transformers_detr.cli import app
from transformers_detr.data.synthetic import make_scene, write_scenes
from transformers_detr.hub.architectures import FAMILIES
from transformers_detr.serving.runner import ModelRunner

QUICK = ("--set", "use_cpu=true", "--set", "report_to=none", "--workers", "0", "--epochs", "1")


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    detector = tiny_detector(TableTransformerForObjectDetection)
    detector.image_processor.size = {"longest_edge": 96}
    return save(detector, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "train", 6, seed=1)
    write_scenes(folder / "val", 3, seed=2)
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for number, size in enumerate([(90, 120), (128, 64)]):
        make_scene(3, number).image.convert("RGB").resize(size).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(model, scenes, tmp_path_factory):
    """A training run with weights of classes."""
    output = tmp_path_factory.mktemp("runs") / "tables"
    weights = ("--set", "class_weights={star: 4, 0: 0.5}", "--set", "no_object_weight=0.4", "--set", "lr_gamma=0.9")
    run("train", "--data", scenes, "--model", model, "--output", output, "--size", 64, *QUICK, *weights)
    return output


def test_train_writes_a_folder_of_the_same_type(model, trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["model_type"] == "table-transformer"
    assert config["architectures"] == ["TableTransformerForObjectDetection"]
    assert config["eos_coefficient"] == 0.4
    names = [config["id2label"][str(label)] for label in range(8)]
    expected = [1.0] * 8
    expected[names.index("star")], expected[0] = 4.0, 0.5
    assert config["class_weights"] == expected
    before, after = (load_file(folder / "model.safetensors") for folder in (model, trained))
    assert not torch.equal(before["model.encoder.layernorm.weight"], after["model.encoder.layernorm.weight"])
    assert json.loads((trained / "preprocessor_config.json").read_text())["size"] == {"longest_edge": 64}


def test_train_with_aids_and_a_fresh_model_of_a_recipe(scenes, tmp_path):
    fields = "\n".join(f"  {name}: {json.dumps(value)}" for name, value in TINY.items())
    (tmp_path / "small.yaml").write_text(
        f"model:\n  model_type: table-transformer\n{fields}\nprocessor:\n  size: {{longest_edge: 64}}\n"
        "training:\n  query_groups: 2\n  token_weight: 1.0\n  anchored_start: true\n"
    )
    result = train(
        scenes,
        model=tmp_path / "small.yaml",
        output_dir=tmp_path / "run",
        epochs=1,
        workers=0,
        settings={"use_cpu": True, "report_to": "none"},
    )
    config = json.loads((result.output_dir / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (
        "table-transformer",
        ["TableTransformerForObjectDetection"],
    )
    assert type(Detector(result.output_dir).model) is TableTransformerForObjectDetection


def test_detect(model, pages, tmp_path):
    run("detect", pages, "--model", model, "--output", tmp_path, "--threshold", 0.3)
    detector = Detector(model)
    assert type(detector.model) is TableTransformerForObjectDetection
    found = json.loads((tmp_path / "coco_results.json").read_text())
    alone = [detector(pages / f"{number}.png", 0.3) for number in (0, 1)]
    assert len(found) == sum(map(len, alone)) > 2
    np.testing.assert_allclose(
        np.sort([one["score"] for one in found]), np.sort(np.concatenate([one.scores for one in alone])), atol=1e-5
    )
    with Image.open(tmp_path / "annotated" / "0.png") as annotated:
        assert annotated.size == (90, 120)


def test_segment_is_refused_in_one_line(model, pages, tmp_path):
    result = CliRunner().invoke(
        app, ["segment", str(pages), "--model", str(model), "--output", str(tmp_path / "out")], env={"COLUMNS": "300"}
    )
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1
    assert "models of type 'table-transformer' have no masks; use `detr detect` or Detector" in lines[0]


def test_evaluate(trained, scenes, tmp_path):
    run("evaluate", "--model", trained, "--data", scenes, "--split", "val", "--output", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["model"] == str(trained)


def test_explain(model, pages, tmp_path):
    run("explain", pages / "0.png", "--model", model, "--output", tmp_path / "figure.png", "--threshold", 0.3)
    with Image.open(tmp_path / "figure.png") as figure:
        assert min(figure.size) > 100


@pytest.mark.parametrize(
    "backend", ["onnx", *(pytest.param(backend, marks=pytest.mark.slow) for backend in ("openvino", "torch"))]
)
def test_export_has_parity_and_detects_the_same(backend, model, pages, tmp_path):
    run("export", "--model", model, "--output", tmp_path / "exported", "--format", backend)
    report = json.loads((tmp_path / "exported" / "export_report.json").read_text())
    assert "table-transformer" in (tmp_path / "exported" / "config.json").read_text()
    assert report
    one, other = Detector(model), Detector(tmp_path / "exported", backend=backend)
    for page in sorted(pages.iterdir()):
        expected, found = one(page, 0.3), other(page, 0.3)
        assert list(found.labels) == list(expected.labels)
        np.testing.assert_allclose(found.boxes_xyxy_px, expected.boxes_xyxy_px, atol=0.05)


@pytest.mark.slow
def test_benchmark(model, tmp_path):
    run("benchmark", "--model", model, "--repeats", 1, "--output", tmp_path / "benchmark.json")
    assert json.loads((tmp_path / "benchmark.json").read_text())


def test_serve(model, pages, tmp_path):
    detector = Detector(model)
    with running({"tables": lambda: ModelRunner(detector)}, preload=True) as service:
        service.wait_until_ready()
        answer = service.request("/?threshold=0.3", png(Image.open(pages / "0.png")))
    assert answer.status == 200
    assert [one["label"] for one in answer.json] == list(detector(pages / "0.png", 0.3).labels)
    run("serve", "--model", model, "--write", "endpoint", "--output", tmp_path / "endpoint")
    assert (tmp_path / "endpoint" / "handler.py").is_file()


@pytest.mark.current_stock  # client 1 asks the real Hub whatever HF_ENDPOINT says
def test_push_checks_it_with_stock_and_writes_its_card(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    with running_hub(tmp_path / "hf_home") as hub:
        pushed = hub.call(push, folder, "an-org/tables")
        assert pushed["status"] == 0, pushed
        content = hub.server.content("an-org/tables")
    card = content["README.md"].decode()
    assert "- table-transformer" in card
    assert "pre-norm DETR model" in card
    assert "use_for_auto()" in card  # stock cannot resize by the longer side alone
    assert "model.safetensors" in content


def test_every_family_is_known_by_its_own_configuration():
    assert {family.config.model_type: name for name, family in FAMILIES.items()} == {name: name for name in FAMILIES}
    assert DetrConfig.norm_first is False
