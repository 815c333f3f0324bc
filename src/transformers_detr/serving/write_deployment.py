"""Write deployment folders: a Space (also a container) or the handler of an Inference Endpoint."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from transformers_detr.atomic_io import atomic_folder
from transformers_detr.hub.loading import is_path
from transformers_detr.hub.model_files import model_files

_TEMPLATES = Path(__file__).with_name("deployment")
_PACKAGE = Path(__file__).parents[1]
_DISTRIBUTION = "transformers-detr"


def write_deployment(kind: Literal["space", "endpoint"], folder: Path, models: Sequence[str]) -> None:
    """Write a self-contained deployment folder, with a copy of this package's code.

    Args:
        kind: "space" with app.py and Dockerfile, or "endpoint" with handler.py.
        folder: Folder to create.
        models: Models of a Space, as for `model_loaders`; local folders are copied.

    Raises:
        FileExistsError: The folder exists.
        FileNotFoundError: A model's folder does not exist.
    """
    with atomic_folder(folder) as partial:
        template = _TEMPLATES / kind
        for file in template.iterdir():
            if file.is_file():
                shutil.copyfile(file, partial / file.name)
        shutil.copytree(_PACKAGE, partial / _PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        (partial / "requirements.txt").write_text("\n".join(_requirements()) + "\n", encoding="utf-8")
        if kind == "space":
            lines = [_add_model(entry, partial) for entry in models]
            (partial / "models.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _add_model(entry: str, folder: Path) -> str:
    """Copy the files of the model if it is a local folder, and return its line of `models.txt`."""
    name, _, source = entry.rpartition("=")
    if not is_path(source):
        return entry
    origin = Path(source).expanduser().resolve()
    name = name or origin.name
    if not origin.is_dir():
        raise FileNotFoundError(f"{source}: no such folder")
    for file in model_files(origin)[0]:  # no checkpoints, logs or pages with training images
        target = folder / "models" / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin / file, target)
    return f"{name}=models/{name}"


def _requirements() -> list[str]:
    """Return the dependencies for serving."""
    found = []
    for line in importlib.metadata.requires(_DISTRIBUTION) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "serve"}):
            requirement.marker = None
            found.append(str(requirement))
    return sorted(found)
