"""The registry of backends: one row each, and nothing about a backend outside its row and its file."""

import ast
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import transformers_detr
from transformers_detr.backends import registry
from transformers_detr.backends.registry import REGISTRY, Backend, missing_packages, model_file
from transformers_detr.cli import app

PACKAGE = Path(transformers_detr.__file__).parent


def test_every_name_has_a_row():
    assert tuple(REGISTRY) == get_args(Backend)


@pytest.mark.parametrize("name", get_args(Backend))
def test_a_row_has_its_file(name):
    entry = REGISTRY[name]
    tree = ast.parse((PACKAGE / "backends" / f"{entry.module}.py").read_text())
    assert {"export", "load"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert model_file(Path("folder"), name).parent.parent == Path("folder")


def test_a_backend_is_named_in_its_row_and_its_file_only():
    """A string that is a backend's name elsewhere would be one more place to change for the next backend."""
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "openvino"
    }
    assert naming == {"backends/registry.py"}


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_extra_installs_the_packages(name):
    entry = REGISTRY[name]
    found = [Requirement(text) for text in requires("transformers-detr")]
    extra = {one.name for one in found if one.marker and one.marker.evaluate({"extra": "export"})}
    assert {*entry.load_packages, *entry.export_packages} <= extra


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name.startswith("onnx") else find_spec(name))
    assert missing_packages("onnx") == ["onnx", "onnxscript", "onnxruntime"]
    assert missing_packages("openvino", ("fp32", "int8")) == ["onnx", "onnxscript", "onnxruntime"]
    assert missing_packages("torch") == []


def test_help_names_every_backend():
    said = " ".join(CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).output.split())
    for name, entry in REGISTRY.items():
        assert f"{name} ({entry.title})" in said
