import json

import pytest
import typer
from typer.testing import CliRunner

from transformers_detr.cli.check import check
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import write_scenes


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(check)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def folder(tmp_path):
    return write_scenes(tmp_path / "scenes", 30, seed=2)


def test_a_clean_dataset(run, folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "Nothing found." in result.output
    for shown in ("train", "30", "moon", "side in cells"):
        assert shown in result.output


def test_faults_are_shown_written_and_repaired(run, folder, tmp_path):
    file = folder / "annotations.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"][:5]:
        annotation["bbox"][2] = -4
    content["annotations"][5]["bbox"][2] = 0
    file.write_text(json.dumps(content))
    result = run(folder, "--json", tmp_path / "report.json", "--fix", tmp_path / "clean", "--quick")
    assert result.exit_code == 1, result.output
    assert "error box-negative × 5: a box of negative width or height; --fix: left out" in result.output
    assert "… and 2 more" in result.output
    assert f"{file}, image 0, annotation 1: box [" in result.output
    assert "warning box-empty × 1" in result.output
    assert "5 errors, 1 warning, 0 notes" in result.output
    assert "Nothing found." in result.output, "in the copy"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [finding["annotation_id"] for finding in report["findings"]] == [1, 2, 3, 4, 5, 6]
    counts = [
        sum(len(image.objects) for image in DetectionDataset.load(path).split("train"))
        for path in (folder, tmp_path / "clean")
    ]
    assert counts[0] - counts[1] == 6


def test_the_limits_are_options(run, folder):
    result = run(folder, "--queries", 3, "--stride", 512, "--quick")
    assert result.exit_code == 0, "training adds queries"
    assert "warning too-many-objects" in result.output
    assert "objects-tiny" in result.output


def test_what_cannot_be_checked(run, folder, tmp_path):
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "dataset-unreadable" in result.output
    assert "no such file or folder" in result.output
    result = run(folder, "--quick", "--json", tmp_path / "nowhere" / "report.json")
    assert result.exit_code == 2
    assert "there is no folder" in result.output
    (tmp_path / "file").touch()
    result = run(folder, "--quick", "--fix", tmp_path / "file" / "clean")
    assert result.exit_code == 1
    assert "Not written:" in result.output
    result = run(folder, "--fix", tmp_path)
    assert result.exit_code == 2
    assert "exists already" in result.output
