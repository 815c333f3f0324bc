"""A tiny detector, exported by the command in every format and precision, once for all tests here."""

import pytest
from typer.testing import CliRunner

from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_TRUNK, randomise_norms
from transformers_detr.cli import app
from transformers_detr.data.scenes import make_scene

SIZES = [(200, 120), (120, 200), (160, 161), (99, 255)]


@pytest.fixture(scope="session")
def detector():
    found = tiny_detector(backbone=None, backbone_config=NATIVE_TRUNK)
    randomise_norms(found.model)
    return found


@pytest.fixture(scope="session")
def pictures():
    return [make_scene(3, index, size).image for index, size in enumerate(SIZES)]


@pytest.fixture(scope="session")
def command(detector, pictures, tmp_path_factory):
    """The folder that `detr export` wrote, and what it said."""
    base = tmp_path_factory.mktemp("export")
    (base / "pictures").mkdir()
    for index, picture in enumerate(pictures):
        picture.save(base / "pictures" / f"{index}.png")
    arguments = ["--model", save(detector, base / "model"), "--output", base / "exported", "--fp16", "--int8"]
    arguments += ["--calibration", base / "pictures", "--images", base / "pictures"]
    arguments += [part for name in ("onnx", "openvino", "torch") for part in ("--format", name)]
    return base / "exported", CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(scope="session")
def exported(command):
    folder, result = command
    assert result.exit_code == 0, result.output
    return folder
