"""Recipes: a model, its image processor and its training settings in one YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "recipes"
"""Folder of the package's recipes; each begins with its purpose, command, time and result."""


@dataclass(frozen=True)
class Recipe:
    """Content of a recipe file.

    Attributes:
        model: Fields of `DetrConfig`, without classes, and optionally `model_type`, for a fresh model; or the name of a
            model to fine-tune.
        processor: Settings of `DetrImageProcessor`.
        training: Fields of `DetrTrainingArguments`.
    """

    model: dict[str, Any] | str = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def recipe_names() -> list[str]:
    """Return the names of the package's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_recipe(name: str) -> Path | None:
    """Return the file of a recipe, given the name of a package recipe or a path ending in .yaml; None if neither."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = FOLDER / f"{name}.yaml"
    return path if path.is_file() else None


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ValueError: The file is missing, no YAML, or has other sections than those of `Recipe`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; recipes of this package are {', '.join(recipe_names())}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    known = {item.name for item in fields(Recipe)}
    if not isinstance(content, dict) or not set(content) <= known:
        raise ValueError(f"{path}: a recipe has the sections {', '.join(sorted(known))}, got {content!r:.100}")
    return Recipe(**content)


def write_recipe(recipe: Recipe, path: Path, heading: str) -> None:
    """Write a recipe, to repeat a training.

    Args:
        recipe: The recipe.
        path: The file.
        heading: First line, without its comment sign.
    """
    content = {item.name: getattr(recipe, item.name) for item in fields(Recipe)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    path.write_text(f"# {heading}\n{text}", encoding="utf-8")
