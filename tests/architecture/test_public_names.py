"""The names that `import transformers_detr` offers."""

import ast
import importlib
from pathlib import Path

import pytest

import transformers_detr


def test_all_is_sorted_and_complete():
    assert transformers_detr.__all__ == sorted(set(transformers_detr.__all__))
    assert set(transformers_detr.__all__) == set(transformers_detr._HOMES)
    assert set(transformers_detr.__all__) <= set(dir(transformers_detr))


@pytest.mark.parametrize("name", transformers_detr.__all__)
def test_every_name_resolves(name):
    value = getattr(transformers_detr, name)
    assert value.__name__ == name
    assert value.__doc__
    home = importlib.import_module(f"transformers_detr.{transformers_detr._HOMES[name]}")
    assert getattr(home, name) is value


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(transformers_detr.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.name: statement.module.removeprefix("transformers_detr.")
        for statement in block.body
        for alias in statement.names
    }
    assert seen == transformers_detr._HOMES


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'DetrForPoetry'"):
        _ = transformers_detr.DetrForPoetry
