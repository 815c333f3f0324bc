"""The report beside an exported model: how far it is off PyTorch, and whether that is allowed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers_detr.export.parity import BOX_TOLERANCE_PX, SCORE_TOLERANCE, Difference

REPORT_JSON, REPORT_TABLE = "export_report.json", "export_report.md"


@dataclass(frozen=True)
class Compared:
    """One exported graph beside PyTorch.

    Attributes:
        backend: "onnx", "openvino" or "torch".
        precision: "fp32", "fp16" or "int8".
        megabytes: Of its files.
        differences: By condition.
        ap: Average precision on labeled pictures, in [0, 1]; None if there were none.
    """

    backend: str
    precision: str
    megabytes: float
    differences: Sequence[Difference]
    ap: float | None = None

    @property
    def broken(self) -> list[str]:
        """What a float32 graph exceeds; the others have no tolerance."""
        if self.precision != "fp32":
            return []
        return [
            f"{self.backend} {self.precision}, {found.condition}: boxes differ by {found.box_px:.3g} px, scores by "
            f"{found.score:.2g} (allowed: {BOX_TOLERANCE_PX} px, {SCORE_TOLERANCE})"
            for found in self.differences
            if not found.within_tolerance
        ]


def write_report(folder: Path, about: dict[str, Any], compared: Sequence[Compared], torch_ap: float | None) -> None:
    """Write `export_report.json` and `export_report.md` into a folder.

    Args:
        folder: The exported folder.
        about: What else the report says, by name: the model, versions, pictures.
        compared: Each graph.
        torch_ap: PyTorch's average precision on the same labeled pictures.
    """
    values = {
        **about,
        "tolerance": {"precision": "fp32", "box_px": BOX_TOLERANCE_PX, "score": SCORE_TOLERANCE},
        "torch_ap": torch_ap,
        "exports": [asdict(one) for one in compared],
        "broken": [line for one in compared for line in one.broken],
    }
    (folder / REPORT_JSON).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    (folder / REPORT_TABLE).write_text(_markdown(about, compared, torch_ap), encoding="utf-8")


def summary_rows(compared: Sequence[Compared], torch_ap: float | None) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a short table: each graph with the worst of its conditions."""
    heads = ["graph", "MB", "boxes, px", "scores", "of sure queries: boxes, px", "changed"]
    heads += ["AP", "of PyTorch"] * (torch_ap is not None)
    rows = []
    for one in compared:
        worst = [max(getattr(found, name) for found in one.differences) for name in ("box_px", "score")]
        changed, sure = (sum(getattr(found, name) for found in one.differences) for name in ("changed", "confident"))
        row = [f"{one.backend} {one.precision}", f"{one.megabytes:.1f}", f"{worst[0]:.2g}", f"{worst[1]:.1g}"]
        row += [f"{max(found.confident_box_px for found in one.differences):.2g}", f"{changed} of {sure}"]
        rows.append(row + ([_percent(one.ap), _percent(torch_ap)] if torch_ap is not None else []))
    return heads, rows


def table_rows(compared: Sequence[Compared], torch_ap: float | None) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the full table; a column that says nothing is left out."""
    heads = [
        "graph",
        "MB",
        "condition",
        "pictures",
        "boxes, px",
        "scores",
        "sure queries",
        "their boxes, px",
        "changed",
    ]
    masks = any(found.mask_pixels is not None for one in compared for found in one.differences)
    heads += ["mask pixels"] * masks + ["AP", "AP of PyTorch"] * (torch_ap is not None)
    rows = []
    for one in compared:
        for found in one.differences:
            row = [f"{one.backend} {one.precision}", f"{one.megabytes:.1f}", found.condition, str(found.pictures)]
            row += [f"{found.box_px:.2g}", f"{found.score:.1g}", str(found.confident)]
            row += [f"{found.confident_box_px:.2g}", str(found.changed)]
            row += [f"{100 * (found.mask_pixels or 0):.2g} %"] * masks
            if torch_ap is not None:
                row += [_percent(one.ap), _percent(torch_ap)]
            rows.append(row)
    return heads, rows


def _percent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{100 * value:.2f}"


def _markdown(about: dict[str, Any], compared: Sequence[Compared], torch_ap: float | None) -> str:
    heads, rows = table_rows(compared, torch_ap)
    lines = ["# Exported model beside PyTorch", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [
        f"- tolerance of fp32: boxes {BOX_TOLERANCE_PX} px, scores {SCORE_TOLERANCE}",
        "",
        "Largest differences from the PyTorch model on each picture alone, in float32. Boxes and scores are of all",
        "queries; sure queries are those that PyTorch gives a class with more than 0.5, changed ones those of them",
        "that get another class, or none.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    broken = [line for one in compared for line in one.broken]
    lines += [*(f"**Broken: {line}**" for line in broken)] or ["All within tolerance."]
    return "\n".join(lines) + "\n"
