"""What every test may use: the shared reference data (where it is present) and the golden weights."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # sums are taken in one order, whatever the machine; workers fill the cores
os.environ["COLUMNS"] = "240"  # messages are not broken in the middle of what a test looks for

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data not present: {Path('shared', *parts)}")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_path():
    """Function `(*parts) -> Path` into the reference data; skips the test where it is absent."""
    return _shared


@pytest.fixture(scope="session")
def golden_path():
    """Function `(*parts) -> Path` into the golden numbers; skips the test where they are absent."""
    return lambda *parts: _shared("golden", *parts)


@pytest.fixture(scope="session")
def golden_json(golden_path):
    """Function `(name) -> parsed JSON` of a golden file."""

    def load(name: str) -> Any:
        return json.loads(golden_path(name).read_text(encoding="utf-8"))

    return load


@pytest.fixture(scope="session")
def golden_tensors(golden_path):
    """Function `(name) -> dict of tensors` of a golden safetensors file."""
    from safetensors.torch import load_file

    return lambda name: load_file(golden_path(name))


@pytest.fixture(scope="session")
def golden_state_dict(golden_path):
    """Function `(variant) -> state dict` with the original's names, rebuilt bit for bit; cached."""
    cache: dict[str, dict[str, Any]] = {}

    def build(variant: str) -> dict[str, Any]:
        if variant not in cache:
            script = golden_path("weights.py")
            spec = importlib.util.spec_from_file_location("golden_weights", script)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            cache[variant] = module.build_state_dict(variant)
        return dict(cache[variant])

    return build
