"""The help of every command, at 80 columns."""

import re

import pytest
import typer
from typer.testing import CliRunner

from transformers_detr.cli import app
from transformers_detr.cli.help import NAMES_WIDTH

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


def help_of(*names):
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns_and_shows_all_of_every_option(name):
    text = help_of(name)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert not re.search(r"<\w+( range)?>", text)
    rows = [line for line in lines if line.startswith("│")]
    names = " ".join(row[2 : NAMES_WIDTH + 2] for row in rows).split()
    descriptions = "".join(row[NAMES_WIDTH + 4 : -1] for row in rows).replace(" ", "")
    for parameter in GROUP.commands[name].params:
        if parameter.param_type_name == "option":
            assert {"/".join([max(parameter.opts, key=len), *parameter.secondary_opts])} <= set(names)
        assert parameter.metavar is None or parameter.metavar in "".join(names)
        assert (parameter.help or "").replace("`", "").replace(" ", "") in descriptions
        if isinstance(parameter.default, str):
            assert f"default:{parameter.default}" in descriptions


@pytest.mark.parametrize("name", COMMANDS)
def test_options_with_a_value_say_what_it_is(name):
    for parameter in GROUP.commands[name].params:
        assert parameter.is_flag if parameter.metavar is None else parameter.metavar, parameter.name


def test_long_lists_of_options_are_grouped():
    for name, command in GROUP.commands.items():
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        panels = {parameter.rich_help_panel for parameter in options}
        assert len(options) < 6 or (None not in panels and len(panels) > 2), name


def test_help_of_the_group_lists_every_command():
    text = help_of()
    assert all(re.search(rf"│ {name}\s", text) for name in COMMANDS)
    assert "Use a model" in text
    assert "Ship" in text
