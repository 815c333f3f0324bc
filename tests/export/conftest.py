"""A tiny detector, exported by the command once for all tests here."""

import pytest
from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_BACKBONE, randomize_norms
from typer.testing import CliRunner

from transformers_detr.cli import app
from transformers_detr.data.synthetic import make_scene

SIZES = [(200, 120), (120, 200), (160, 161), (99, 255)]


@pytest.fixture(scope="session")
def detector():
    # The shortcut of its first stage is a kernel of one pixel, which carries on whatever padding holds.
    backbone = NATIVE_BACKBONE | {"hidden_sizes": [32, 32, 64, 128]}
    found = tiny_detector(backbone=None, backbone_config=backbone)
    randomize_norms(found.model)
    return found


@pytest.fixture(scope="session")
def images():
    return [make_scene(3, index, size).image for index, size in enumerate(SIZES)]


@pytest.fixture(scope="session")
def saved(detector, images, tmp_path_factory):
    """A folder with the model, and one with images."""
    base = tmp_path_factory.mktemp("saved")
    (base / "images").mkdir()
    for index, image in enumerate(images):
        image.save(base / "images" / f"{index}.png")
    return save(detector, base / "model"), base / "images"


def export(saved, output, *arguments):
    model, images = saved
    fixed = ["--model", model, "--output", output, "--images", images, "--int8", "--calibration", images]
    result = CliRunner().invoke(app, ["export", *map(str, fixed), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="session")
def command(saved, tmp_path_factory):
    """The folder that `detr export` wrote, and what it said."""
    folder = tmp_path_factory.mktemp("export") / "exported"
    return folder, export(saved, folder, "--format", "onnx", "--format", "openvino")


@pytest.fixture(scope="session")
def exported(command):
    return command[0]


@pytest.fixture(scope="session")
def fully_exported(saved, tmp_path_factory):
    """One with every format and precision, for slow tests."""
    folder = tmp_path_factory.mktemp("full_export") / "exported"
    formats = [part for name in ("onnx", "openvino", "torch") for part in ("--format", name)]
    export(saved, folder, "--fp16", *formats)
    return folder


@pytest.fixture
def folder_with(request):
    """Finds the folder that holds a graph."""

    def find(backend, precision="fp32"):
        usual = backend in ("onnx", "openvino") and precision in ("fp32", "int8")
        return request.getfixturevalue("exported" if usual else "fully_exported")

    return find
