"""`detr explain` as its user runs it."""

import numpy as np
import pytest
from PIL import Image
from tiny_detector import save, tiny_detector
from typer.testing import CliRunner

from transformers_detr.cli import app
from transformers_detr.data.synthetic import write_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    save(tiny_detector(), folder / "model")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name in ("one.jpg", "two.png"):
        Image.fromarray(noise).save(folder / "photos" / name)
    return folder


def run(folder, *arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments), "--model", str(folder / "model")])


def width(path):
    with Image.open(path) as image:
        return image.width


def test_a_figure_for_each_image(folder, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    result = run(folder, broken, folder / "photos", "--output", tmp_path / "sheets", "--point", "0.5,0.25")
    assert result.exit_code == 1
    assert f"skipped {broken}: " in result.stderr
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["one-explained.png", "two-explained.png"]
    assert width(tmp_path / "sheets" / "one-explained.png") == 1640


def test_one_image_to_a_file(folder, tmp_path):
    result = run(folder, folder / "photos" / "one.jpg", "-o", tmp_path / "sheet.jpg")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.jpg"]
    assert result.stdout.strip() == str(tmp_path / "sheet.jpg")


def test_queries_over_a_dataset(folder, tmp_path):
    write_scenes(tmp_path / "scenes", 3, 0)
    result = run(folder, "--queries", tmp_path / "scenes", "--limit", 2, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert width(tmp_path / "queries.png") > 500


def test_queries_over_a_folder_without_annotations(folder, tmp_path):
    result = run(folder, "--queries", folder / "photos", "-o", tmp_path / "chart.png", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert width(tmp_path / "chart.png") > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either images or --queries"),
        (["photos", "--queries", "x"], "give either images or --queries"),
        (["nosuch.jpg"], "nosuch.jpg: no such file or folder"),
        (["photos", "--point", "1"], "--point 1: must be X,Y"),
        (["photos", "--point", "1,2"], "--point 1,2: must lie between 0 and 1"),
        (["photos", "-o", "one.png"], "need a folder, --output names the file one.png"),
        (["--queries", "nosuch"], "nosuch: no such file or folder"),
    ],
)
def test_mistakes_are_named(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    result = run(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output
