"""Report of an export: differences of each graph from PyTorch, and whether they are within the tolerance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from transformers_detr import __version__
from transformers_detr.export.parity import BOX_TOLERANCE_PX, SCORE_TOLERANCE, Difference

REPORT_JSON, REPORT_TABLE = "export_report.json", "export_report.md"


@dataclass(frozen=True)
class GraphComparison:
    """Comparison of one exported graph with PyTorch.

    Attributes:
        backend: "onnx", "openvino" or "torch".
        precision: "fp32", "fp16" or "int8".
        megabytes: Size of its files.
        differences: Largest differences under each condition.
        ap: AP on labeled images (0–100); None without labeled images.
    """

    backend: str
    precision: str
    megabytes: float
    differences: Sequence[Difference]
    ap: float | None = None

    @property
    def violations(self) -> list[str]:
        """Conditions under which a float32 graph exceeds the tolerance; other precisions have none."""
        if self.precision != "fp32":
            return []
        return [
            f"{self.backend} {self.precision}, {found.condition}: boxes differ by {found.box_px:.3g} px, scores by "
            f"{found.score:.2g} (allowed: {BOX_TOLERANCE_PX} px, {SCORE_TOLERANCE})"
            for found in self.differences
            if not found.within_tolerance
        ]


def write_report(
    folder: Path, about: dict[str, Any], compared: Sequence[GraphComparison], torch_ap: float | None
) -> None:
    """Write `export_report.json` and `export_report.md` into a folder.

    Args:
        folder: The exported folder.
        about: Further entries of the report: model, images.
        compared: Comparison of each graph.
        torch_ap: AP of PyTorch on the same labeled images (0–100).
    """
    about = {**about, "transformers-detr": __version__, "torch": torch.__version__}
    values = {
        **about,
        "tolerance": {"precision": "fp32", "box_px": BOX_TOLERANCE_PX, "score": SCORE_TOLERANCE},
        "torch_ap": torch_ap,
        "exports": [asdict(one) for one in compared],
        "violations": [line for one in compared for line in one.violations],
    }
    (folder / REPORT_JSON).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / REPORT_TABLE).write_text(_markdown(about, compared, torch_ap), encoding="utf-8")


def summary_rows(compared: Sequence[GraphComparison], torch_ap: float | None) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a short table: each graph with the worst of its conditions."""
    heads = ["graph", "MB", "boxes, px", "scores", "confident boxes, px", "changed"]
    heads += ["AP", "PyTorch AP"] * (torch_ap is not None)
    rows = []
    for one in compared:
        worst = [max(getattr(found, name) for found in one.differences) for name in ("box_px", "score")]
        changed, confident = (
            sum(getattr(found, name) for found in one.differences) for name in ("changed", "confident")
        )
        row = [f"{one.backend} {one.precision}", f"{one.megabytes:.1f}", f"{worst[0]:.2g}", f"{worst[1]:.1g}"]
        row += [f"{max(found.confident_box_px for found in one.differences):.2g}", f"{changed} of {confident}"]
        rows.append(row + ([_ap_text(one.ap), _ap_text(torch_ap)] if torch_ap is not None else []))
    return heads, rows


def table_rows(compared: Sequence[GraphComparison], torch_ap: float | None) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the full table; columns without values are left out."""
    heads = [
        "graph",
        "MB",
        "condition",
        "images",
        "boxes, px",
        "scores",
        "confident queries",
        "their boxes, px",
        "changed",
    ]
    masks = any(found.mask_pixels is not None for one in compared for found in one.differences)
    heads += ["changed mask pixels"] * masks + ["AP", "PyTorch AP"] * (torch_ap is not None)
    rows = []
    for one in compared:
        for found in one.differences:
            row = [f"{one.backend} {one.precision}", f"{one.megabytes:.1f}", found.condition, str(found.images)]
            row += [f"{found.box_px:.2g}", f"{found.score:.1g}", str(found.confident)]
            row += [f"{found.confident_box_px:.2g}", str(found.changed)]
            row += [f"{100 * (found.mask_pixels or 0):.2g} %"] * masks
            if torch_ap is not None:
                row += [_ap_text(one.ap), _ap_text(torch_ap)]
            rows.append(row)
    return heads, rows


def _ap_text(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.2f}"


def _markdown(about: dict[str, Any], compared: Sequence[GraphComparison], torch_ap: float | None) -> str:
    heads, rows = table_rows(compared, torch_ap)
    lines = ["# Exported model compared with PyTorch", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [
        f"- tolerance of fp32: boxes {BOX_TOLERANCE_PX} px, scores {SCORE_TOLERANCE}",
        "",
        "Largest differences from the float32 PyTorch model on single images, over all queries. Confident queries are",
        "those with a class that PyTorch scores above 0.5; changed ones are confident queries that get another class,",
        "or none.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    violations = [line for one in compared for line in one.violations]
    lines += [*(f"**Tolerance exceeded: {line}**" for line in violations)] or ["All within tolerance."]
    return "\n".join(lines) + "\n"
