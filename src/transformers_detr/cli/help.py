"""Help of the commands: one panel per group of options, in two columns that fit 80 characters."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

NAMES_WIDTH = 28
"""Width of the column of option names. A value that does not fit goes below its option."""
INDENT = 4 * " "


class _Help:
    """Replaces typer's help, whose columns of types leave about 25 characters for the text."""

    def format_help(self: Any, context: Any, formatter: Any) -> None:
        """Print usage, description, and a panel for each group of parameters and commands."""
        console = Console(highlight=False)
        console.print(Padding(Text.assemble(("Usage: ", "bold"), _usage(self, context)), (1, 1)))
        console.print(Padding(Markdown(self.help or ""), (0, 1, 1, 1)))
        panels: dict[str, list[tuple[Text, Text]]] = defaultdict(list)
        for parameter in self.get_params(context):
            if not getattr(parameter, "hidden", False):
                panels[_panel(parameter)].append((_names(parameter), _description(parameter)))
        if isinstance(self, TyperGroup):
            for name, command in self.commands.items():
                row = (Text(name, "bold cyan"), Text((command.help or "").split("\n\n")[0].replace("\n", " ")))
                panels[str(getattr(command, "rich_help_panel", None) or "Commands")].append(row)
        panels["Options"] = panels.pop("Options")
        for title, rows in panels.items():
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(width=NAMES_WIDTH, overflow="fold")
            table.add_column()
            for row in rows:
                table.add_row(*row)
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))


class Command(_Help, TyperCommand):
    """A command with this help."""


class Group(_Help, TyperGroup):
    """The command `detr` itself, with this help."""


def _usage(command: Any, context: Any) -> str:
    arguments = [parameter for parameter in command.get_params(context) if parameter.param_type_name == "argument"]
    words = [context.command_path, "[OPTIONS]"]
    words += [parameter.metavar if parameter.required else f"[{parameter.metavar}]" for parameter in arguments]
    words += ["COMMAND ..."] if isinstance(command, TyperGroup) else []
    return " ".join(words)


def _panel(parameter: Any) -> str:
    default = "Arguments" if parameter.param_type_name == "argument" else "Options"
    return str(getattr(parameter, "rich_help_panel", None) or default)


def _names(parameter: Any) -> Text:
    """Name an argument or option: short name, long name, value."""
    if parameter.param_type_name == "argument":
        return Text(parameter.metavar, "yellow")
    names = sorted(parameter.opts, key=len)
    text = Text(", ".join(names) if names[0][1] != "-" else INDENT + names[0], "bold cyan")
    if parameter.secondary_opts:
        text.append("/" + parameter.secondary_opts[0])
    if parameter.metavar:
        fits = len(text) + 1 + len(parameter.metavar) <= NAMES_WIDTH
        text.append((" " if fits else f"\n{INDENT}") + parameter.metavar, "yellow")
    return text


def _description(parameter: Any) -> Text:
    """Give the help of a parameter, with its default and environment variable."""
    text = Text((parameter.help or "").replace("`", ""))
    notes = ["required"] if parameter.required else []
    if isinstance(parameter.show_default, str):
        notes.append(f"default: {parameter.show_default}")
    elif parameter.secondary_opts:
        notes.append(f"default: {(parameter.opts if parameter.default else parameter.secondary_opts)[0].lstrip('-')}")
    elif not (parameter.default is None or parameter.is_flag or callable(parameter.default)):
        notes.append(f"default: {parameter.default}")
    if parameter.envvar:
        notes.append(f"environment: {parameter.envvar}")
    if notes:
        text.append(f" [{'; '.join(notes)}]", "dim")
    return text
