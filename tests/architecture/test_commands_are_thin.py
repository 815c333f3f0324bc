"""A command parses, calls the library and prints: it starts light, computes nothing and is short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

import transformers_detr
from transformers_detr.cli import app

FOLDER = Path(transformers_detr.__file__).parent / "cli"
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))
COMPUTES = {"torch", "numpy", "scipy", "timm", "PIL", "torchvision", "faster_coco_eval"}
MOST_LINES = 120


def tree_of(command):
    return ast.parse((FOLDER / f"{command}.py").read_text(encoding="utf-8"))


def lines_of_options(tree):
    """Lines that declare options: signatures of commands, and annotated types that several commands share."""
    taken = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "Annotated" in ast.unparse(node.args):
            taken |= set(range(node.lineno, node.body[0].lineno))
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Annotated["):
            taken |= set(range(node.lineno, node.end_lineno + 1))
    return taken


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_short(command):
    lines = (FOLDER / f"{command}.py").read_text(encoding="utf-8").splitlines()
    rest = len(lines) - len(lines_of_options(tree_of(command)))
    assert rest <= MOST_LINES, f"{rest} lines without options: move work into the library"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_computes_nothing(command):
    for node in ast.walk(tree_of(command)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        assert not {name.partition(".")[0] for name in names} & COMPUTES, f"{command}:{node.lineno}"


def test_no_command_loads_torch_for_its_help():
    """All commands in one process, as each `--help` loads all of them."""
    code = (
        "import sys; from typer.testing import CliRunner; from transformers_detr.cli import app\n"
        "for name in sys.argv[1:]: assert CliRunner().invoke(app, [name, '--help']).exit_code == 0, name\n"
        "print(*sys.modules)"
    )
    names = sorted(get_command(app).commands)
    assert set(names) <= set(COMMANDS), "one file per command"
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (COMPUTES | {"transformers", "huggingface_hub"})
