"""The guides as what their reader does: blocks of code in order, and what the comment before each says of it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "docs" / "index.md", *(REPOSITORY / "docs" / "guides").glob("*.md")])

_BLOCK = re.compile(r"(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: "bash" or "python".
        code: Its lines.
        note: The comment before it: "not run: why", "in the background", or nothing.
    """

    language: str
    code: str
    note: str

    @property
    def is_run(self) -> bool:
        return not self.note.startswith("not run: ")

    @property
    def commands(self) -> list[str]:
        return [line for line in self.code.splitlines() if line.strip()] if self.language == "bash" else []


def blocks(page: Path) -> list[Block]:
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["code"], match["note"] or "") for match in found]


def detr_arguments(command: str) -> list[str] | None:
    """What follows `detr` in a command, perhaps behind a launcher; None if there is none."""
    match = re.search(r"(?:^|--no-python )detr (.*)$|transformers_detr\.cli (.*)$", command)
    return None if match is None else shlex.split(match[1] or match[2])
