"""`export_model` in Python: its result, its report and its errors."""

import json
import math

import numpy as np
import pytest

from transformers_detr import Detector, DetrConfig, export_model
from transformers_detr.backends import registry
from transformers_detr.export import export_workflow
from transformers_detr.export.benchmark import benchmark_backends


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def result(detector, saved, steps, tmp_path_factory):
    """An export of a loaded detector, for a fixed size."""
    folder = tmp_path_factory.mktemp("in_python") / "exported"
    return export_model(detector, folder, size=(96, 128), images=[saved[1]], progress=steps.append)


def test_the_result_names_files_and_differences(result, steps):
    assert result.files == {("onnx", "fp32"): result.folder / "onnx" / "model.onnx"}
    assert result.passed
    (comparison,) = result.comparisons
    assert [found.condition for found in comparison.differences] == ["alone", "in a batch", "odd sizes"]
    assert comparison.megabytes == pytest.approx(result.files["onnx", "fp32"].stat().st_size / 1e6)
    assert steps[:2] == ["tracing in fp32", "writing ONNX in fp32"]
    report = json.loads(result.report.with_suffix(".json").read_text())
    assert report["fixed size"] == "96×128"
    assert report["exports"][0]["differences"][0]["images"] == 4


def test_the_graph_runs_and_the_detector_is_unchanged(result, detector, images):
    found = Detector.from_pretrained(result.folder, backend="onnx")
    expected = Detector(detector.model, found.image_processor)(images[0], threshold=0)
    np.testing.assert_allclose(found(images[0], threshold=0).scores, expected.scores, atol=1e-4)
    assert not detector.model.training


def test_ap_is_on_cocos_scale(monkeypatch):
    """Predictions that are the ground truth have an AP of 100."""
    scored = type("Scored", (), {"summary": {"AP": 100.0}})()
    monkeypatch.setattr(export_workflow, "score_detections", lambda *_: scored)
    monkeypatch.setattr(export_workflow, "plan_batches", lambda *_, **__: [])
    labeled = type("Labeled", (), {"images": (), "ground_truth": None})()
    model = type("Model", (), {"supports_exact_padding": True, "config": DetrConfig()})()
    assert math.isclose(export_workflow._average_precision(model, None, labeled), 100)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"formats": ["tflite"]}, ValueError, "formats must be some of onnx, openvino, torch, got tflite"),
        ({"formats": []}, ValueError, "got none"),
        ({"formats": ["torch"], "int8": True}, ValueError, "format torch has no int8; onnx, openvino has"),
        ({"calibration": "images"}, ValueError, "calibration needs int8=True"),
        ({"size": (800, 32)}, ValueError, r"\(height, width\), each at least 64, got \(800, 32\)"),
        ({"images": ["nowhere.png"]}, FileNotFoundError, "nowhere.png"),
    ],
)
def test_errors(options, error, message, detector, tmp_path):
    with pytest.raises(error, match=message):
        export_model(detector, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(detector, tmp_path):
    with pytest.raises(FileExistsError, match="exists already"):
        export_model(detector, tmp_path)


def test_an_exported_model_is_not_exported_again(result, tmp_path):
    exported = Detector.from_pretrained(result.folder, backend="onnx")
    with pytest.raises(ValueError, match="must be a PyTorch model"):
        export_model(exported, tmp_path / "out")


def test_a_missing_package_is_named(detector, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="format onnx needs onnx, onnxscript, onnxruntime: pip install onnx onnxscript"
    ):
        export_model(detector, tmp_path / "out")


def test_benchmark_restores_the_threads(detector, exported, tmp_path):
    import torch

    before = torch.get_num_threads()
    result = benchmark_backends(detector, exported=exported, compiled=False, repeats=1, threads=before + 1)
    assert torch.get_num_threads() == before
    assert result.fastest.agrees
    assert result.rows[0].name == "PyTorch"
    result.save(tmp_path / "times.json")
    assert [row["name"] for row in json.loads((tmp_path / "times.json").read_text())] == [r.name for r in result.rows]
