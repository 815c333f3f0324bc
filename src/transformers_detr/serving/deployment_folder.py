"""Write the folders that other places run: a Space, which is a container too, and the handler of an endpoint."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from transformers_detr.atomic_io import atomic_folder
from transformers_detr.hub.loading import is_path

_TEMPLATES = Path(__file__).with_name("deployment")
_PACKAGE = Path(__file__).parents[1]
_DISTRIBUTION = "transformers-detr"


def write_deployment(kind: Literal["space", "endpoint"], folder: Path, models: Sequence[str]) -> None:
    """Write a folder that is complete: this package's code travels with it, so that it runs what was tried here.

    Args:
        kind: "space" with app.py and Dockerfile, or "endpoint" with handler.py.
        folder: Is made.
        models: For a Space, as `model_loaders` takes them; folders are copied along.

    Raises:
        FileExistsError: If the folder exists.
        FileNotFoundError: If a model's folder does not.
    """
    with atomic_folder(folder) as partial:
        template = _TEMPLATES / kind
        for file in template.iterdir():
            if file.is_file():
                shutil.copyfile(file, partial / file.name)
        shutil.copytree(_PACKAGE, partial / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (partial / "requirements.txt").write_text("\n".join(_requirements()) + "\n", encoding="utf-8")
        if kind == "space":
            lines = [_take_along(entry, partial) for entry in models]
            (partial / "models.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _take_along(entry: str, folder: Path) -> str:
    """The line of `models.txt` for a model; one in a folder is copied."""
    name, _, source = entry.rpartition("=")
    if not is_path(source):
        return entry
    origin = Path(source).expanduser().resolve()
    name = name or origin.name
    if not origin.is_dir():
        raise FileNotFoundError(f"{source}: there is no such folder")
    shutil.copytree(origin, folder / "models" / name)
    return f"{name}=models/{name}"


def _requirements() -> list[str]:
    """What this package needs to serve."""
    found = []
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "serve"}):
            requirement.marker = None
            found.append(str(requirement))
    return sorted(found)
