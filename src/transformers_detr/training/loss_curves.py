"""Training curves as SVG text, drawn by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from transformers_detr.evaluation.charts import RIGHT, WRONG, legend, plain, svg_text, thinned
from transformers_detr.visualization.palette import GREEN, ORANGE, PURPLE, SKY_BLUE

COLORS = (RIGHT, WRONG, GREEN, PURPLE, ORANGE, SKY_BLUE, "black")
"""Okabe and Ito's palette, distinguishable with every common color blindness."""

WINDOW = 25
"""Curves with more values than this are drawn thin, with their running mean over about a twentieth of them."""

Log = Sequence[Mapping[str, Any]]


def curves(log: Log, names: Mapping[str, str], label: str, *, log_scale: bool = False, marker: str = "") -> str | None:
    """Draw logged values of a training over its epochs.

    Args:
        log: `TrainerState.log_history`.
        names: Name in the log → name to show; names that were not logged are left out.
        label: Label of the vertical axis.
        log_scale: Whether the vertical axis is logarithmic.
        marker: Matplotlib's marker for single values; the newest value is always marked.

    Returns:
        The drawing, or None if none of them was logged.
    """
    series = {shown: values for name, shown in names.items() if len(values := logged(log, name))}
    if not series:
        return None
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for color, (name, values) in zip(COLORS, series.items(), strict=False):
        epochs, numbers = values[thinned(len(values))].T
        smooth = _smoothed(numbers)
        if smooth is not numbers:
            axes.plot(epochs, numbers, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(epochs, smooth, color=color, label=name, marker=marker, markersize=4)
        axes.plot(epochs[-1], smooth[-1], color=color, marker="o", markersize=4)
    axes.set(xlabel="Epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if log_scale:
        axes.set_yscale("log")
    elif all((values[:, 1] >= 0).all() for values in series.values()):
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    plain(axes)
    if len(series) > 1:
        legend(axes, loc="best")
    return svg_text(figure)


def logged(log: Log, name: str) -> NDArray[np.float64]:
    """Return epoch and value, `(N, 2)`, of each finite logged value; repeated steps of a resumed training once."""
    found = {entry["step"]: (entry["epoch"], entry[name]) for entry in log if name in entry and "epoch" in entry}
    values = np.array([found[step] for step in sorted(found)], dtype=np.float64).reshape(-1, 2)
    return values[np.isfinite(values).all(axis=1)]


def _smoothed(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the running mean of many values; few values stay unchanged."""
    if len(numbers) <= WINDOW:
        return numbers
    width = max(3, len(numbers) // 20)
    sums = np.cumsum(np.insert(numbers, 0, 0.0))
    ends = np.arange(1, len(numbers) + 1)
    begins = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))
