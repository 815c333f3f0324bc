"""The benchmarks as programs: they are found, say what they need, and print tables."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import transformers_detr

FOLDER = Path(transformers_detr.__file__).parents[2] / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if "def main" in path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


def test_the_programs_are_found():
    assert {"detection", "gpu", "growth", "loss", "processes", "remaining", "segmentation"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_names_the_command(name, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", FOLDER / f"{name}.py"
    )  # tests/serving has a name
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    assert f"python benchmarks/{name}.py" in module.__doc__
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert "--output" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert importlib.import_module("gpu").main() == 1
    assert "nothing was measured" in capsys.readouterr().err


def test_tables_are_markdown(capsys):
    rows = importlib.import_module("report").print_rows(("case", "s", "ratio"), iter([("one", 0.51234, 123.4)]))
    assert capsys.readouterr().out == "| case | s | ratio |\n|---|---|---|\n| one | 0.512 | 123 |\n"
    assert rows == [{"case": "one", "s": 0.51234, "ratio": 123.4}]


def test_different_answers_are_refused():
    models = importlib.import_module("models")
    both = models.Models("resnet10t")
    inputs = {"pixel_values": torch.randn(1, 3, 64, 96)}
    both.same_answers(inputs)
    with torch.no_grad():
        both.ours.bbox_predictor.layers[2].bias += 0.1
    with pytest.raises(models.Disagreement, match="boxes by"):
        both.same_answers(inputs)
    both.temporary.cleanup()
