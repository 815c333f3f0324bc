"""Charts of an evaluation as SVG text, drawn by matplotlib without its global state."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from transformers_detr.evaluation.average_precision import AveragePrecision
from transformers_detr.evaluation.operating_points import Curve, OperatingPoint
from transformers_detr.visualization.palette import BLUE, VERMILION

RIGHT, WRONG, NEUTRAL = BLUE, VERMILION, "#8a8a8a"
"""Colors of charts, distinguishable under common color blindness."""

MOST_LABELED_CLASSES = 8
"""Maximum of classes whose curves get a label each; more could not be distinguished."""

MOST_CONFUSED_CLASSES = 10
"""Rows of the confusion chart; `confusion_matrix.csv` has all."""

# text stays text, so that it is small, sharp and searchable; ids do not change from run to run
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "detr", "font.size": 10, "font.family": "sans-serif"}


def precision_recall_by_iou(scores: AveragePrecision) -> str:
    """Precision over recall, averaged over the classes, at each IoU threshold."""
    figure, axes = _unit_chart("Recall", "Precision")
    shown = _classes_with_objects(scores)
    recall = np.linspace(0, 1, scores.precision.shape[1])
    for index, threshold in enumerate(scores.iou_thresholds if shown else []):
        label = f"IoU {threshold:.2f}" if index % 3 == 0 else None
        mean = scores.precision[index][:, shown].mean(axis=1)
        axes.plot(recall, mean, color=RIGHT, alpha=1 - 0.08 * index, label=label)
    legend(axes, loc="upper right")
    return svg_text(figure)


def precision_recall_by_class(scores: AveragePrecision) -> str:
    """Precision over recall of each class at IoU 0.5, and their mean."""
    figure, axes = _unit_chart("Recall", "Precision")
    shown = _classes_with_objects(scores)
    recall = np.linspace(0, 1, scores.precision.shape[1])
    at_50 = scores.precision[0][:, shown]  # (R, shown)
    for k, values in zip(shown, at_50.T, strict=True):
        if len(shown) <= MOST_LABELED_CLASSES:
            axes.plot(recall, values, label=scores.per_class[k].name)
        else:
            axes.plot(recall, values, color=NEUTRAL, alpha=0.4, linewidth=0.8)
    if shown:
        axes.plot(recall, at_50.mean(axis=1), color="black", linewidth=2.2, label="mean")
    legend(axes, loc="lower left")
    return svg_text(figure)


def threshold_chart(curve: Curve, best: OperatingPoint) -> str:
    """Precision, recall and F1 over the score threshold, all classes together."""
    figure, axes = _unit_chart("Score threshold", "")
    columns = ((curve.precision, RIGHT, "precision"), (curve.recall, WRONG, "recall"), (curve.f1, "black", "F1"))
    for values, color, name in columns:
        keep = thinned(len(values))
        axes.plot(curve.thresholds[keep], values[keep], color=color, label=name)
    if np.isfinite(best.threshold):
        axes.axvline(best.threshold, color=NEUTRAL, linestyle=":", label=f"best F1 at {best.threshold:.2f}")
    legend(axes, loc="best")
    return svg_text(figure)


def score_chart(right: NDArray[np.int64], wrong: NDArray[np.int64]) -> str:
    """Draw the numbers of correct and of wrong detections by score."""
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, len(right) + 1)
    axes.stairs(right, edges, color=RIGHT, linewidth=1.8, label="on an object")
    axes.stairs(wrong, edges, color=WRONG, linewidth=1.8, label="false alarm")
    # nearly all queries score close to 0, which would hide the rest on an even scale
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="Score", ylabel="Detections", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    legend(axes, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes.grid(alpha=0.25)
    plain(axes)
    return svg_text(figure)


def size_chart(scores: AveragePrecision, objects: dict[str, int]) -> str:
    """AP of small, medium and large objects, with how many there are."""
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    names = ("small", "medium", "large")
    values = [scores.summary[f"AP{name[0]}"] for name in names]
    bars = axes.bar(range(3), np.nan_to_num(values), color=RIGHT, width=0.6)
    axes.bar_label(bars, ["none" if np.isnan(value) else f"{value:.1f}" for value in values], padding=3)
    areas = ("under 32²", "32² to 96²", "over 96² px")
    axes.set_xticks(range(3), [f"{n}\n{a}\n{objects[n]} objects" for n, a in zip(names, areas, strict=True)])
    axes.set(ylabel="AP", ylim=(0, 110))
    axes.set_yticks(range(0, 101, 20))
    plain(axes)
    return svg_text(figure)


def confusion_chart(counts: NDArray[np.int64], names: list[str]) -> str:
    """The confusion matrix as shares of each row, of the classes that are confused most."""
    background = len(names)
    mistakes = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()
    rows = sorted(np.argsort(-mistakes[:background], kind="stable")[:MOST_CONFUSED_CLASSES].tolist())
    rows = [row for row in rows if counts[row].sum() + counts[:, row].sum()] + [background]
    part = counts[np.ix_(rows, rows)]
    shares = part / np.maximum(counts[rows].sum(axis=1, keepdims=True), 1)
    side = 1.6 + 0.3 * len(rows)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    labels = [_short(names[row]) for row in rows[:-1]]
    axes.set_xticks(range(len(rows)), [*labels, "missed"], rotation=90)
    axes.set_yticks(range(len(rows)), [*labels, "nothing"])
    axes.set(xlabel="Detected", ylabel="Truth")
    for (row, column), count in np.ndenumerate(part):
        if count:
            color = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    return svg_text(figure)


def _unit_chart(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    plain(axes)
    return figure, axes


def _classes_with_objects(scores: AveragePrecision) -> list[int]:
    """Return the positions of the classes whose precision is defined."""
    return np.flatnonzero(~np.isnan(scores.precision).any(axis=(0, 1))).tolist()


def legend(axes: Axes, **place: Any) -> None:
    """Add a legend if anything labeled is drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(framealpha=0.8, edgecolor="none", **place)


def plain(axes: Axes) -> None:
    """Hide the top and right edges of the frame."""
    axes.spines[["top", "right"]].set_visible(False)


def thinned(length: int, most: int = 600) -> NDArray[np.int64]:
    """Return at most `most` evenly spaced positions: a curve of 500,000 points would take megabytes."""
    return np.unique(np.linspace(0, max(length - 1, 0), min(length, most)).astype(np.int64))


def _short(name: str, longest: int = 16) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def svg_text(figure: Figure) -> str:
    """A figure as SVG, the same for the same numbers."""
    text = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # matplotlib's font may lack a script, but the letters are drawn by who shows the page
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
