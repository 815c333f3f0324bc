"""Exported graphs against PyTorch: alone, in padded batches, in every format and precision."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from tiny_detector import tiny_detector
from tiny_detr import padded_batch
from typer.testing import CliRunner

from export.conftest import export
from serving.conftest import png, running
from transformers_detr import Detector, Segmenter
from transformers_detr.backends.load_exported import open_exported
from transformers_detr.backends.registry import exported_files, model_file
from transformers_detr.cli import app
from transformers_detr.export.export_folder import write_export_folder
from transformers_detr.export.export_report import GraphComparison
from transformers_detr.export.parity import Reference, conditions, difference
from transformers_detr.hub.loading import LoadingError
from transformers_detr.serving.model_registry import model_loaders

SLOW_TORCH = pytest.param("torch", marks=pytest.mark.slow)
BACKENDS = ["onnx", "openvino", SLOW_TORCH]
SLOW_FP16 = pytest.param("fp16", 0.01, marks=pytest.mark.slow)


def largest_difference(found, expected):
    boxes = max(np.abs(a.boxes_xyxy_px - b.boxes_xyxy_px).max() for a, b in zip(found, expected, strict=True))
    return boxes, max(np.abs(a.scores - b.scores).max() for a, b in zip(found, expected, strict=True))


def query_scores(detector, images):
    """The best score of each query, in their order, which the detections are not in."""
    inputs = (detector.image_processor(image, return_tensors="pt") for image in images)
    return [detector.model(**one).logits[0].softmax(-1)[:, :-1].amax(-1) for one in inputs]


def mean_difference(found, expected):
    return np.mean([(a - b).abs().mean().item() for a, b in zip(found, expected, strict=True)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_batch_gives_what_pytorch_gives_alone(backend, folder_with, detector, images):
    alone = [detector(image, threshold=0) for image in images]
    together = Detector.from_pretrained(folder_with(backend), backend=backend)(images, threshold=0, batch_size=4)
    boxes, scores = largest_difference(together, alone)
    assert boxes < 0.01
    assert scores < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_heavy_padding_of_odd_sizes(backend, folder_with, detector):
    sizes = [(33, 65), (97, 131), (40, 200)]
    pixel_values, pixel_mask = padded_batch(sizes)
    found = open_exported(folder_with(backend), backend)[0](pixel_values, pixel_mask)
    for index, (height, width) in enumerate(sizes):
        with torch.inference_mode():
            alone = detector.model(pixel_values=pixel_values[index : index + 1, :, :height, :width])
        torch.testing.assert_close(found.logits[index], alone.logits[0], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(found.pred_boxes[index], alone.pred_boxes[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_service_answers_the_same(backend, folder_with, detector, images):
    loaders = model_loaders([f"tiny={folder_with(backend)}"], backend=backend)
    with running(loaders) as service:
        service.wait_until_ready()
        assert service.request("/models").json[0]["attention"] is False
        for image in images:
            found = service.request("/?threshold=0", png(image)).json
            expected = detector(image, threshold=0).to_dict(integer_pixels=True)
            assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
            for ours, theirs in zip(found, expected, strict=True):
                assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
                assert all(abs(ours["box"][side] - at) <= 1 for side, at in theirs["box"].items())


@pytest.mark.slow
def test_padding_does_not_stretch_the_ranges_of_8_bits(saved, detector, images, tmp_path):
    """Calibration at a fixed size pads too; a range with the lowest float in it would hold nothing else."""
    export(saved, tmp_path / "fixed", "--fixed-size", "160x256")
    found = query_scores(Detector(tmp_path / "fixed", backend="onnx", precision="int8"), images)
    expected = query_scores(Detector(tmp_path / "fixed", backend="onnx"), images)
    assert mean_difference(found, expected) < 0.1
    assert mean_difference(found, expected[1:] + expected[:1]) > 0.3


def test_the_mask_is_heeded(exported):
    """Without it the padding would count: the tests above could not fail otherwise."""
    pixel_values, pixel_mask = padded_batch([(64, 64), (128, 160)])
    model = open_exported(exported, "onnx")[0]
    difference = model(pixel_values, pixel_mask).logits[0] - model(pixel_values).logits[0]
    assert difference.abs().max() > 1e-2


def test_a_coarse_mask_of_ones_means_no_padding(exported):
    """As transformers.js gives it: 64 x 64, whatever the image."""
    pixel_values = torch.randn(1, 3, 90, 150, generator=torch.Generator().manual_seed(0))
    model = open_exported(exported, "onnx")[0]
    coarse = model(pixel_values, torch.ones(1, 64, 64, dtype=torch.int64))
    full = model(pixel_values, torch.ones(1, 90, 150, dtype=torch.int64))
    assert torch.equal(coarse.logits, full.logits)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(("precision", "most"), [SLOW_FP16, ("int8", 0.1)])
def test_lower_precisions_are_near_but_not_equal(backend, precision, most, folder_with, detector, images):
    """In the mean: under random weights single scores tip over; those of other images differ by 0.3 and more."""
    folder = folder_with(backend, precision)
    found = query_scores(Detector(folder, backend=backend, precision=precision), images)
    expected = query_scores(detector, images)
    assert max((a - b).abs().max() for a, b in zip(found, expected, strict=True)) > 1e-5
    assert mean_difference(found, expected) < most
    assert mean_difference(found, expected[1:] + expected[:1]) > 0.3


def test_files_are_where_transformers_js_looks(exported, repository):
    files = exported_files(exported)
    assert files["onnx", "fp32"] == exported / "onnx" / "model.onnx"
    assert files["onnx", "int8"] == exported / "onnx" / "model_quantized.onnx"
    assert files["onnx", "fp32"].stat().st_size > 2.2 * files["onnx", "int8"].stat().st_size
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["DetrForObjectDetection"]
    assert config["exact_padding"] is True
    for path in files.values():
        assert str(repository).encode() not in path.read_bytes(), f"{path.name} tells where it was made"


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_inputs_and_outputs_stay_float32_and_free(precision, folder_with):
    graph = onnx.load(model_file(folder_with("onnx", precision), "onnx", precision)).graph
    assert {value.type.tensor_type.elem_type for value in graph.output} == {onnx.TensorProto.FLOAT}
    dimensions = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert dimensions == {
        "pixel_values": ["batch", 3, "height", "width"],
        "pixel_mask": ["batch", "mask_height", "mask_width"],
    }


@pytest.mark.slow
def test_half_precision_halves_the_file(fully_exported):
    files = exported_files(fully_exported)
    assert len(files) == 7
    assert files["onnx", "fp16"] == fully_exported / "onnx" / "model_fp16.onnx"
    assert files["onnx", "fp32"].stat().st_size > 1.7 * files["onnx", "fp16"].stat().st_size


def test_only_backbone_and_encoder_are_rounded(exported):
    graph = onnx.load(exported / "onnx" / "model_quantized.onnx").graph
    rounded = {node.name for node in graph.node if node.op_type == "QuantizeLinear"}
    producers = {name: node.name for node in graph.node for name in node.output}
    sources = {producers.get(node.input[0], "") for node in graph.node if node.name in rounded}
    assert any("backbone" in name for name in sources)
    assert not any("decoder" in name or "bbox_predictor" in name for name in sources)


def test_the_report_tells_what_was_compared(command, exported):
    _, said = command
    report = json.loads((exported / "export_report.json").read_text())
    seen = {(one["backend"], one["precision"], d["condition"]) for one in report["exports"] for d in one["differences"]}
    assert len(seen) == 4 * 3
    assert report["violations"] == []
    fp32 = [one for one in report["exports"] if one["precision"] == "fp32"]
    assert max(d["box_px"] for one in fp32 for d in one["differences"]) < 0.01
    assert "onnx int8" in said
    assert "| openvino fp32 |" in (exported / "export_report.md").read_text()


def test_another_model_breaks_the_tolerance(exported, detector, images):
    other, (onnx, _) = Reference(tiny_detector().model), open_exported(exported, "onnx")
    differences = [difference(other, onnx, view) for view in conditions(detector.image_processor, images)]
    assert len(GraphComparison("onnx", "fp32", 1.0, differences).violations) == 3
    assert not GraphComparison("onnx", "int8", 1.0, differences).violations


def test_a_broken_tolerance_ends_the_command_with_1(exported, monkeypatch, tmp_path, saved):
    from transformers_detr.export import export_workflow

    monkeypatch.setattr("transformers_detr.export.parity.BOX_TOLERANCE_PX", 0.0)
    monkeypatch.setattr(export_workflow, "write_export_folder", lambda folder, *_, **__: _copy(exported, folder))
    model, images = saved
    arguments = [
        "export",
        "--model",
        str(model),
        "--images",
        str(images / "0.png"),
        "--output",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "tolerance exceeded" in result.output
    assert json.loads((tmp_path / "out" / "export_report.json").read_text())["violations"]


def _copy(source, folder):
    shutil.copytree(source, folder, dirs_exist_ok=True)


@pytest.mark.slow
def test_a_fixed_size_pads_and_refuses(tmp_path, detector, images):
    write_export_folder(tmp_path, detector.model, detector.image_processor, fixed_size=(96, 128))
    fixed = Detector.from_pretrained(tmp_path, backend="onnx")
    found = fixed(images, threshold=0)
    expected = Detector(detector.model, fixed.image_processor)(images, threshold=0)
    boxes, scores = largest_difference(found, expected)
    assert boxes < 0.01
    assert scores < 1e-4
    with pytest.raises(ValueError, match=r"exported for 96×128 .* the images have 97×100"):
        fixed.model(torch.zeros(1, 3, 97, 100))


def test_errors_say_what_to_do(exported, tmp_path):
    with pytest.raises(LoadingError, match="no such folder"):
        Detector.from_pretrained(tmp_path / "nowhere", backend="onnx")
    with pytest.raises(LoadingError, match=r"no export for backend 'torch' in fp16 .*detr export --format torch"):
        Detector.from_pretrained(exported, backend="torch", precision="fp16")
    with pytest.raises(ValueError, match="backend must be one of onnx, openvino, torch, got 'tflite'"):
        Detector.from_pretrained(exported, backend="tflite")
    with pytest.raises(ValueError, match="dtype is for PyTorch weights only"):
        Detector.from_pretrained(exported, backend="onnx", dtype="float16")
    with pytest.raises(LoadingError, match="this is a detection model"):
        Segmenter.from_pretrained(exported, backend="onnx")


@pytest.mark.parametrize(
    ("file", "reason"),
    [("onnx/model.onnx", "Protobuf parsing failed"), ("openvino/openvino_model.xml", "Error parsing")],
)
def test_a_damaged_graph_is_named(file, reason, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    path = folder / file
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LoadingError, match=f"{file}: cannot be loaded: .*{reason}"):
        Detector.from_pretrained(folder, backend=file.partition("/")[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fixed-size", "800"], "must be HEIGHTxWIDTH"),
        (["--calibration", "x"], "--calibration needs --int8"),
        (["--format", "torch", "--fp16"], "format torch has no fp16"),
        (["--images", "nowhere.png"], "nowhere.png: no such file"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, saved, tmp_path):
    fixed = ["--model", str(saved[0]), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["export", *fixed, *arguments])
    assert result.exit_code != 0
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
