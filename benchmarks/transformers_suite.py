"""The tests that Transformers has for its DETR, run on stock's classes and on ours.

    git clone --depth 1 --branch v5.24.0 https://github.com/huggingface/transformers
    pip install parameterized httpx
    python benchmarks/transformers_suite.py transformers
    python benchmarks/transformers_suite.py transformers --only test_initialization --show

The checkout must be of the installed version, or nearly; nothing of it is kept here. Each side runs in a process of its
own, in which the names of stock's module mean the classes of that side. A test counts if stock passes it; the result is
the number of those that ours passes too, and each name that fails.

With RUN_SLOW=1 the slow tests run too. Those that load `facebook/detr-resnet-50` need the network, or a folder of that
name in the checkout.

A failure is accepted only where stock is wrong and the test asks for what is wrong: `EXPLAINED` names these tests.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import machine, print_rows, write_json

SIDES = ("stock", "ours")
TESTS = "tests/models/detr"
RESULTS = "DETR_SUITE_RESULTS"
SIDE = "DETR_SUITE_SIDE"

CANVAS = "boxes of the smaller image are asked for relative to the padded canvas, not to the image"
EXPLAINED = {
    "test_longest_edge_shortest_edge_resizing_strategy": "asks for 640×436 of 958×653, the original's is 639×436",
    "test_batched_coco_panoptic_annotations": f"{CANVAS}; and its panoptic PNG is not of the image's size",
    "test_batched_coco_detection_annotations": CANVAS,
    "test_pil_can_run_without_torchvision": "looks for stock's class in a process of its own",
}
"""Tests that ours fails because they ask for what stock gets wrong, with the reason; the last two are slow ones."""

REPLACED = {
    "configuration_detr": ("DetrConfig",),
    "modeling_detr": (
        "DetrForObjectDetection",
        "DetrForSegmentation",
        "DetrModel",
        "DetrModelOutput",
        "DetrObjectDetectionOutput",
        "DetrPreTrainedModel",
        "DetrSegmentationOutput",
    ),
    "image_processing_detr": ("DetrImageProcessor",),
    "image_processing_pil_detr": ("DetrImageProcessorPil",),
}
"""Modules of `transformers.models.detr` and the names in them to replace by our classes."""


def use_ours() -> None:
    """Replace stock's classes in its modules and in the `Auto*` classes by ours."""
    from transformers_detr import use_for_auto
    from transformers_detr.model import (
        configuration_detr,
        image_processing_detr,
        modeling_detr,
        modeling_segmentation_detr,
        outputs_detr,
        pretrained_detr,
    )

    own: dict[str, Any] = {"DetrImageProcessorPil": image_processing_detr.DetrImageProcessor}
    for module in (
        pretrained_detr,
        outputs_detr,
        configuration_detr,
        image_processing_detr,
        modeling_detr,
        modeling_segmentation_detr,
    ):
        own |= vars(module)
    for name, classes in REPLACED.items():
        stock = importlib.import_module(f"transformers.models.detr.{name}")
        for class_name in classes:
            setattr(stock, class_name, own[class_name])
    use_for_auto()


def pytest_configure() -> None:
    """Choose the side, before any test is imported; pytest calls this."""
    if os.environ[SIDE] == "ours":
        use_ours()


def pytest_runtest_logreport(report: Any) -> None:
    """Note the outcome of a test or a part of one; pytest calls this."""
    name = report.nodeid.removeprefix(f"{TESTS}/")
    failed, passed = report.failed, report.passed and report.when == "call"
    if failed or passed:
        with Path(os.environ[RESULTS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, "failed" if failed else "passed"]) + "\n")


def run(side: str, checkout: Path, only: str | None, show: bool) -> dict[str, str]:
    """Run the tests of a checkout on one side.

    Returns:
        "passed" or "failed" for each test that was not skipped.

    Raises:
        RuntimeError: pytest could not run, which the message explains.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        results.touch()
        command = [sys.executable, "-m", "pytest", TESTS, "-p", "transformers_suite", "-q", "-W", "ignore"]
        command += ["-p", "no:cacheprovider", *(["-k", only] if only else [])]
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {RESULTS: str(results), SIDE: side, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(
            command,
            cwd=checkout,
            env={**os.environ, **environment},
            text=True,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
        )
        if done.returncode not in (0, 1):
            raise RuntimeError(f"pytest ended with {done.returncode} in {checkout}\n{(done.stdout or '')[-3000:]}")
        outcomes: dict[str, str] = {}
        for line in results.read_text(encoding="utf-8").splitlines():
            name, outcome = json.loads(line)
            outcomes[name] = "failed" if "failed" in (outcome, outcomes.get(name)) else "passed"
    return outcomes


def main() -> int:
    """Run the command; 1 if a test that stock passes fails without an explanation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a checkout of Transformers")
    parser.add_argument("--only", metavar="EXPRESSION", help="run only these tests; pytest's -k")
    parser.add_argument("--show", action="store_true", help="show what pytest prints")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()

    outcomes = {side: run(side, arguments.checkout, arguments.only, arguments.show) for side in SIDES}
    counted = [name for name, outcome in outcomes["stock"].items() if outcome == "passed"]
    failing = [name for name in counted if outcomes["ours"].get(name) != "passed"]
    reasons = {name: EXPLAINED.get(name.rpartition("::")[2], "unexplained") for name in failing}
    print(f"stock passes {len(counted)} tests, ours {len(counted) - len(failing)} of them")
    print_rows(("fails", "why"), iter(reasons.items()))
    report = {"machine": machine(threads=1), "counted": len(counted), "failing": reasons, "outcomes": outcomes}
    write_json(arguments.output, report)
    return int("unexplained" in reasons.values())


if __name__ == "__main__":
    sys.exit(main())
