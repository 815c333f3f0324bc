"""The README's snippets and commands run as they stand, with a small model under the published one's name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from local_hub.process import HubProcess
from local_hub.server import HubServer
from local_hub.steps import run_command, run_snippet
from PIL import Image
from tiny_detector import save, tiny_detector

from transformers_detr import DetectionDataset
from transformers_detr.data.cleaning import write_coco
from transformers_detr.data.synthetic import write_scenes

NAME = "facebook/detr-resnet-50"


@pytest.fixture(scope="module")
def readme(repository) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def process(tmp_path_factory) -> Iterator[HubProcess]:
    """A process of its own, since one snippet changes what the Auto classes return."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.png"):
        Image.fromarray(noise).save(folder / name)
    server = HubServer()
    server.add(NAME, save(tiny_detector(), folder / "model"))
    process = HubProcess(server, folder / "home")
    process.call(os.chdir, folder)
    yield process
    process.close()
    server.close()


@pytest.mark.parametrize("which", ["detector", "classes", "pipeline"])
def test_python_runs(process, readme, which):
    (code,) = re.findall(rf"<!-- test: {which} -->\n```python\n(.*?)```", readme, flags=re.DOTALL)
    assert NAME in code
    printed = process.call(run_snippet, code)
    assert printed.strip() or which == "classes"


def test_every_python_block_is_tested(readme):
    assert len(re.findall("```python", readme)) == len(re.findall("<!-- test: ", readme)) == 4


@pytest.mark.slow  # twenty epochs
def test_the_workflow_runs(process, readme, tmp_path):
    """Check, train, evaluate and export, on a few generated scenes."""
    (code,) = re.findall(r"<!-- test: workflow -->\n```python\n(.*?)```", readme, flags=re.DOTALL)
    whole = DetectionDataset.load(write_scenes(tmp_path / "scenes", 6))
    images = whole.split("train")
    write_coco(replace(whole, splits={"train": images[:4], "val": images[4:]}), tmp_path / "my-dataset")
    process.call(os.chdir, tmp_path)
    assert 0 <= float(process.call(run_snippet, code).split()[-1]) <= 100
    assert (tmp_path / "exported" / "onnx" / "model.onnx").is_file()


def test_the_command_runs(process, readme, tmp_path_factory):
    (line,) = re.findall(r"^(detr detect .*)$", readme, flags=re.MULTILINE)
    assert process.call(run_command, line) == 0
    folder = Path(process.call(os.getcwd)) / "detections"
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 1 + 2
    assert len(list((folder / "annotated").iterdir())) == 2


def test_every_verb_is_listed(readme):
    from typer.main import get_command

    from transformers_detr.cli import app

    listed = set(re.findall(r"^\| `detr (\w+)` \|", readme, flags=re.MULTILINE))
    assert listed == set(get_command(app).commands)  # type: ignore[attr-defined]
