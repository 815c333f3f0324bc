"""Reports of benchmarks: a table for people (and the README), JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


class Disagreement(Exception):
    """The outputs of the two sides differ."""


def add_common_arguments(parser: ArgumentParser, repeats: int = 5) -> None:
    """Add the arguments that nearly every benchmark takes."""
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path, help="JSON file for the results")


def machine(threads: int) -> dict[str, Any]:
    """Return the conditions of the measurement."""
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def print_rows(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> list[dict[str, Any]]:
    """Print a table in Markdown, row by row as they come; numbers get three digits.

    Returns:
        The rows, by column.
    """
    printed = []
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        cells = [_short(cell) if isinstance(cell, float) else str(cell) for cell in row]
        print("| " + " | ".join(cells) + " |", flush=True)
        printed.append(dict(zip(columns, row, strict=True)))
    return printed


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Write a report, if a file is named."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
