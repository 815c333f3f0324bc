"""The names that `import transformers_detr` offers, and the contracts in their docstrings."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
from guides import PAGES, blocks

import transformers_detr

PROMISED = {
    *("Detector", "Segmenter", "Detections", "Segments"),
    *("DetectionDataset", "check_dataset", "train", "evaluate", "export_model", "explain"),
    *("DetrTrainer", "DetrTrainingArguments"),
    *("DetrConfig", "DetrImageProcessor", "DetrModel", "DetrForObjectDetection", "DetrForSegmentation"),
    *("predict_to_folder", "use_for_auto"),
}
FRAMEWORK = {"DetrTrainingArguments", "DetrConfig"}
"""Constructors with more arguments than a contract can name; their fields have help texts of their own."""

SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes):$", re.MULTILINE)


def test_the_promised_names_are_there():
    assert set(transformers_detr.__all__) >= PROMISED


def test_all_is_sorted_and_complete():
    assert transformers_detr.__all__ == sorted(set(transformers_detr.__all__))
    assert set(transformers_detr.__all__) == set(transformers_detr._HOMES)
    assert set(transformers_detr.__all__) <= set(dir(transformers_detr))


@pytest.mark.parametrize("name", transformers_detr.__all__)
def test_every_name_resolves(name):
    value = getattr(transformers_detr, name)
    assert value.__name__ == name
    home = importlib.import_module(f"transformers_detr.{transformers_detr._HOMES[name]}")
    assert getattr(home, name) is value


def public_callables():
    """Each public function and class, and each public method that a public class defines itself."""
    for name in transformers_detr.__all__:
        value = getattr(transformers_detr, name)
        yield name, value
        if inspect.isclass(value):
            for attribute, member in vars(value).items():
                member = getattr(member, "__func__", member)
                if inspect.isfunction(member) and not attribute.startswith("_"):
                    yield f"{name}.{attribute}", member


@pytest.mark.parametrize(("name", "value"), [pytest.param(*pair, id=pair[0]) for pair in public_callables()])
def test_docstrings_are_contracts(name, value):
    """A first sentence that is one sentence, and an entry for each argument where there is a section of them."""
    text = inspect.getdoc(value) or ""
    summary = text.split("\n\n")[0].replace("\n", " ")
    assert summary.endswith("."), f"{name}: the first paragraph is a sentence"
    assert not re.match(r"(What|Where|Who|Which|How|When|That)\b", summary), f"{name}: begin with a verb or a noun"
    sections = SECTION.split(text)
    documented = dict(zip(sections[1::2], sections[2::2], strict=True))
    if "Args" in documented:
        entries = re.findall(r"^    \*{0,2}(\w+):", documented["Args"], re.MULTILINE)
        signature = list(inspect.signature(value).parameters.values())
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature)
        known = {parameter.name for parameter in signature}
        assert takes_any or set(entries) <= known, f"{name}: {set(entries) - known} are not arguments"


WORKFLOWS = ["check_dataset", "train", "evaluate", "export_model", "explain"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_name_arguments_results_and_errors(name):
    function = getattr(transformers_detr, name)
    text = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in text, f"{name} has no section {section}"
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    missing = [
        p for p in inspect.signature(function).parameters if not re.search(rf"^ +\*{{0,2}}{p}:", arguments, re.M)
    ]
    assert not missing, f"{name}: {missing} are not explained"


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


PYTHON_OF_GUIDES = [
    pytest.param(block.code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page))
    if block.language == "python"
]


@pytest.mark.parametrize("code", PYTHON_OF_GUIDES)
def test_guides_use_public_names_only(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "transformers_detr":
            assert node.module == "transformers_detr", f"from {node.module}: not a public place"
            assert {alias.name for alias in node.names} <= set(transformers_detr.__all__)
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("transformers_detr.")]
