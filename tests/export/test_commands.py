"""`detr detect`, `segment`, `evaluate` and `benchmark` with exported models, beside the same with PyTorch."""

import json

import numpy as np
import pytest
from sure_segmenter import sure_segmenter
from tiny_detector import NAMES, save
from tiny_detr import padded_batch
from typer.testing import CliRunner

from transformers_detr import Detector, Segmenter
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.cli import app
from transformers_detr.evaluation.predictions import read_predictions
from transformers_detr.export.benchmark import BenchmarkResult, BenchmarkRow
from transformers_detr.export.export_folder import write_export_folder
from transformers_detr.export.parity import Difference
from transformers_detr.inference.predictions import read_records


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result.output


def test_detect_finds_the_same(saved, exported, tmp_path):
    model, images = saved
    common = ("detect", images, "--threshold", 0.3, "--no-images")
    run(*common, "--model", model, "--output", tmp_path / "pytorch")
    run(*common, "--model", exported, "--backend", "onnx", "--output", tmp_path / "onnx")
    expected, found = (json.loads((tmp_path / name / "coco_results.json").read_text()) for name in ("pytorch", "onnx"))
    assert len(expected) > 4
    assert [one["category_id"] for one in found] == [one["category_id"] for one in expected]
    np.testing.assert_allclose([one["bbox"] for one in found], [one["bbox"] for one in expected], atol=0.01)


def test_precision_chooses_the_file(saved, exported, labeled, tmp_path):
    """The numbers are those of the engine that opens the 8-bit file, and not those of the other one."""
    image = saved[1] / "0.png"
    choice = ("--model", exported, "--backend", "onnx", "--precision")
    found = {}
    for precision in ("fp32", "int8"):
        folder = tmp_path / precision
        run("detect", image, "--threshold", 0, "--no-images", "--output", folder, *choice, precision)
        found[precision] = [one["score"] for one in json.loads((folder / "coco_results.json").read_text())]
        detector = Detector.from_pretrained(exported, backend="onnx", precision=precision)
        np.testing.assert_allclose(found[precision], detector(image, threshold=0).scores, atol=1e-5)
    assert np.abs(np.subtract(found["fp32"], found["int8"])).max() > 1e-4

    run("evaluate", "--data", labeled, "--batch-size", 1, "--output", tmp_path / "scored", *choice, "int8")
    metrics = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert metrics["settings"]["precision"] == "int8"
    scored = next(iter(read_predictions(tmp_path / "scored" / "predictions.jsonl")))
    np.testing.assert_allclose(np.sort(scored.scores), np.sort(found["int8"]), atol=1e-5)


@pytest.mark.parametrize("verb", ["detect", "segment", "serve"])
def test_precision_goes_with_a_backend(verb, saved):
    given = [] if verb == "serve" else [str(saved[1] / "0.png")]
    command = [verb, *given, "--model", str(saved[0]), "--precision", "int8"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "needs --backend; for PyTorch use --dtype" in result.output


@pytest.fixture(scope="module")
def labeled(saved, images):
    """A file that labels one object in each of the images."""
    files = sorted(saved[1].glob("*.png"))
    box = {"category_id": 0, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0}
    content = {
        "images": [
            {"id": index, "file_name": path.name, "height": image.height, "width": image.width}
            for index, (path, image) in enumerate(zip(files, images, strict=True))
        ],
        "annotations": [{"id": 1 + index, "image_id": index} | box for index in range(len(files))],
        "categories": [{"id": label, "name": name} for label, name in NAMES.items()],
    }
    path = saved[1] / "labels.json"
    path.write_text(json.dumps(content))
    return path


def test_evaluate_predicts_the_same(saved, exported, labeled, tmp_path):
    common = ("evaluate", "--data", labeled)
    run(*common, "--model", saved[0], "--output", tmp_path / "pytorch")
    run(*common, "--model", exported, "--backend", "openvino", "--output", tmp_path / "openvino")
    expected, found = (
        np.stack([one.boxes_xywh for one in read_predictions(tmp_path / name / "predictions.jsonl")])
        for name in ("pytorch", "openvino")
    )
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--padding", "original"), "leave out padding"),
        (("evaluate", "--check-padding"), "the padding of an exported model is fixed"),
        (("detect", "--dtype", "float16"), "does not apply to exported models; use --precision"),
    ],
)
def test_what_an_exported_model_has_of_its_own(arguments, message, saved, exported, labeled, tmp_path):
    verb, *options = arguments
    given = ["--data", labeled, "--output", tmp_path / "out"] if verb == "evaluate" else [saved[1] / "0.png"]
    command = [verb, *given, *options, "--model", exported, "--backend", "onnx"]
    result = CliRunner().invoke(app, [str(part) for part in command], env={"COLUMNS": "200"})
    assert result.exit_code in (1, 2)
    assert message in result.output


def test_benchmark_times_what_was_exported(saved, exported, tmp_path):
    model, images = saved
    options = ("--repeats", 1, "--no-compiled", "--exported", exported, "--output", tmp_path / "times.json")
    said = run("benchmark", "--model", model, "--images", images / "0.png", *options)
    results = {one["name"]: one for one in json.loads((tmp_path / "times.json").read_text())}
    assert list(results) == ["PyTorch", "onnx fp32", "onnx int8", "openvino fp32", "openvino int8"]
    assert all(one["milliseconds"] > 0 for one in results.values())
    assert results["onnx fp32"]["note"] == ""
    assert results["onnx int8"]["note"] == "results differ"
    assert "the fastest with the results of PyTorch" in said


def test_benchmark_names_the_very_graph_it_advises():
    same, other = (Difference("alone", 6, px, px / 1000, 9, px, 0, None) for px in (0.1, 9.0))
    results = [
        BenchmarkRow("PyTorch", 9.0, same),
        BenchmarkRow("openvino fp16", 4.0, same),
        BenchmarkRow("onnx int8", 2.0, other, "results differ"),
        BenchmarkRow("onnx fp32", None, None, "failed: memory"),
    ]
    assert BenchmarkResult(results).recommendation.splitlines() == [
        "Use openvino fp16: the fastest with the results of PyTorch. `detr export --format openvino --fp16`, then "
        "Detector.from_pretrained(DIR, backend='openvino', precision='fp16').",
        "onnx int8 is 2.00 times faster still, but its results differ: measure its AP with "
        "`detr export --format onnx --int8 --calibration … --data …` first.",
    ]
    assert BenchmarkResult(results[:1]).recommendation == "Use PyTorch: the fastest with the results of PyTorch."


@pytest.mark.slow
def test_masks_are_those_of_pytorch(images, tmp_path):
    segmenter = sure_segmenter()
    (tmp_path / "exported").mkdir()
    write_export_folder(tmp_path / "exported", segmenter.model, segmenter.image_processor)
    exported, _ = open_exported(tmp_path / "exported", "onnx", architecture="DetrForSegmentation")
    pixel_values, pixel_mask = padded_batch([(97, 131), (64, 128)])
    found = exported(pixel_values, pixel_mask)
    expected = segmenter.model(pixel_values=pixel_values, pixel_mask=pixel_mask, exact_padding=True)
    masks = expected.pred_masks.detach()
    np.testing.assert_allclose(found.pred_masks, masks, atol=1e-3 * float(masks.std()), rtol=0)

    again = Segmenter.from_pretrained(tmp_path / "exported", backend="onnx")
    for one, other in zip(again(images), segmenter(images), strict=True):
        assert [part["label_id"] for part in one.segments_info] == [part["label_id"] for part in other.segments_info]
        assert (one.segmentation != other.segmentation).mean() < 1e-3

    images[0].save(tmp_path / "image.png")
    common = ("segment", tmp_path / "image.png", "--output")
    run(*common, tmp_path / "onnx", "--model", tmp_path / "exported", "--backend", "onnx")
    run(*common, tmp_path / "pytorch", "--model", save(segmenter, tmp_path / "model"))
    names = [
        [part["label"] for record in read_records(tmp_path / kind / "predictions.jsonl") for part in record["segments"]]
        for kind in ("onnx", "pytorch")
    ]
    assert names[0] == names[1] != []
