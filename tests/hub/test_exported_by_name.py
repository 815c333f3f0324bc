"""Exported models by ORG/NAME: only what the backend needs is downloaded; errors are told as those of weights are."""

import json
import shutil

import pytest
from local_hub.server import Fault
from local_hub.steps import NOBODY, WRITER, detect, run_command
from tiny_detector import tiny_detector
from tiny_detr import NATIVE_BACKBONE

from transformers_detr.data.synthetic import make_scene
from transformers_detr.export.export_folder import write_export_folder

NAME = "an-org/detr-exported"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    folder.mkdir()
    detector = tiny_detector(backbone=None, backbone_config=NATIVE_BACKBONE)
    write_export_folder(folder, detector.model, detector.image_processor, ("onnx", "openvino"))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.parametrize(
    ("backend", "graph"),
    [
        ("onnx", {"onnx/model.onnx"}),
        ("openvino", {"openvino/openvino_model.xml", "openvino/openvino_model.bin"}),
    ],
)
def test_only_what_is_needed_comes(hub, folder, backend, graph):
    commit = hub.server.add(NAME, folder)
    assert hub.call(detect, NAME, backend=backend) == hub.call(detect, str(folder), backend=backend)
    (snapshot,) = (hub.home / "hub").rglob(f"snapshots/{commit}")
    files = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    assert files == {"config.json", "preprocessor_config.json", *graph}


def test_revisions_and_the_cache(hub, folder):
    first = hub.server.add(NAME, folder)
    expected = hub.call(detect, str(folder), backend="onnx")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    hub.server.add(NAME, folder, "v2")
    other = hub.call(detect, NAME, backend="onnx", revision="v2")
    assert other[0] == expected[0]
    assert set(other[1]) <= {"a", "b", "c"}
    assert hub.call(detect, NAME, backend="onnx") == expected
    assert hub.call(detect, NAME, backend="onnx", revision=first) == expected
    assert hub.call(detect, NAME, backend="onnx", local_files_only=True) == expected
    assert len([one for one in hub.server.requests if one.startswith("GET /large/")]) == 1
    missing = hub.call(detect, NAME, backend="onnx", revision="v3")
    assert missing == f"{NAME}: the Hub has no revision 'v3' of it"


def test_subfolder(hub, folder):
    hub.server.add(NAME, folder, under="exports/tiny/")
    expected = hub.call(detect, str(folder), backend="onnx")
    assert hub.call(detect, NAME, backend="onnx", subfolder="exports/tiny") == expected
    assert hub.call(detect, str(folder.parent), backend="onnx", subfolder="model") == expected


def test_what_is_not_there(hub, folder):
    hub.server.add(NAME, folder)
    message = hub.call(detect, NAME, backend="onnx", precision="fp16")
    assert message == f"{NAME}: no export for backend 'onnx' in fp16; create one with `detr export --format onnx`"
    message = hub.call(detect, NAME, backend="openvino", local_files_only=True)
    assert "cannot be reached and the model is not in the local cache" in message
    (folder / "preprocessor_config.json").unlink()
    hub.server.add("an-org/half", folder)
    assert hub.call(detect, "an-org/half", backend="onnx") == "an-org/half: preprocessor_config.json is missing"
    message = hub.call(detect, "an-org/none", backend="onnx", token=NOBODY)
    assert message.startswith("an-org/none: no such folder, and no such model on the Hub")


def test_private_and_interrupted(hub, folder):
    hub.server.add(NAME, folder, private=True)
    assert "if it is private, run `hf auth login`" in hub.call(detect, NAME, backend="onnx")
    hub.server.faults.append(Fault("GET", "/large/", "cut", times=99))
    message = hub.call(detect, NAME, backend="onnx", token=WRITER)
    assert message.startswith(f"{NAME}: the download was interrupted")
    hub.server.faults.clear()
    expected = hub.call(detect, str(folder), backend="onnx")
    assert hub.call(detect, NAME, backend="onnx", token=WRITER) == expected


def test_the_command_heeds_the_revision(hub, folder, tmp_path):
    hub.server.add(NAME, folder, "v2")
    make_scene(0, 0, (96, 128)).image.save(tmp_path / "scene.png")
    line = f"detr detect {tmp_path / 'scene.png'} --model {NAME} --backend onnx --output {tmp_path / 'out'} --revision"
    assert hub.call(run_command, f"{line} v1") == 1
    assert hub.call(run_command, f"{line} v2 --overwrite") == 0
    header, record = map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
    assert header["settings"]["revision"] == "v2"
    assert (record["height"], record["width"]) == (96, 128)
