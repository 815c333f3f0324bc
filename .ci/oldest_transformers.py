"""Print the oldest version of transformers that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
(bound,) = [match[1] for entry in project["dependencies"] if (match := re.fullmatch(r"transformers>=([\d.]+)", entry))]
print(bound if bound.count(".") == 2 else f"{bound}.0")  # noqa: T201
