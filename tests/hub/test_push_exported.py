"""An exported folder, with the weights beside the graphs, goes to the Hub whole and runs from there by either."""

import json

import pytest
from local_hub.steps import detect, load, push
from tiny_detector import tiny_detector
from tiny_detr import NATIVE_BACKBONE

from transformers_detr.export.export_folder import write_export_folder
from transformers_detr.hub.fingerprint import FINGERPRINT_FILE

NAME = "an-org/detr-exported"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    detector = tiny_detector(backbone=None, backbone_config=NATIVE_BACKBONE)
    write_export_folder(folder, detector.model, detector.image_processor, ("onnx", "torch"))
    (folder / "export_report.json").write_text(json.dumps({"compared": []}))
    detector.model.save_pretrained(tmp_path / "weights")
    return folder


def test_an_exported_folder(hub, folder, tmp_path):
    refused = hub.call(push, folder, NAME)
    assert refused["status"] == 1
    assert "the folder has onnx/model.onnx, but no weights to verify it with: copy" in refused["error"]
    assert NAME not in hub.server.repositories

    (tmp_path / "weights" / "model.safetensors").rename(folder / "model.safetensors")
    pushed = hub.call(push, folder, NAME)
    assert pushed["status"] == 0, pushed
    content = hub.server.content(NAME)
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {"onnx/model.onnx", "torch/model.pt2", "export_report.json", "model.safetensors"} <= set(here)
    assert set(content) == {*here, "README.md", FINGERPRINT_FILE}
    assert all(content[name] == path.read_bytes() for name, path in here.items())
    assert hub.call(load, NAME) == hub.call(load, str(folder))
    assert hub.call(detect, NAME, backend="onnx") == hub.call(detect, str(folder), backend="onnx")
