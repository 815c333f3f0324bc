"""HTML page of a training: curves, evaluations, settings and augmented images; rewritten after every evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TrainerCallback

from transformers_detr.atomic_io import atomic_file
from transformers_detr.training.loss_curves import Log, curves, logged
from transformers_detr.visualization.html_page import jpeg_url, render_page, svg_url

PAGE = "training.html"

TERM_NAMES = {
    "loss_ce": "class",
    "loss_bbox": "L1 of boxes",
    "loss_giou": "GIoU of boxes",
    "loss_mask": "mask",
    "loss_dice": "dice of masks",
}
SCORES = {"eval_AP": "AP", "eval_AP50": "AP50", "eval_AP75": "AP75", "eval_mask_AP": "mask AP"}
SIZES = {"eval_APs": "small", "eval_APm": "medium", "eval_APl": "large"}
RATE = {"learning_rate": "learning rate"}
NORM = {"grad_norm": "norm"}


class TrainingPageCallback(TrainerCallback):
    """Keeps `training.html` in the output folder up to date, so that a browser can follow the training.

    Args:
        folder: Output folder.
        title: Heading of the page.
        settings: Training settings, shown as a table.
        preview: Sheet of augmented training images.
    """

    def __init__(self, folder: Path, title: str, settings: Mapping[str, Any], preview: Image.Image | None = None):
        self.folder = folder
        self.title = title
        self.settings = settings
        self.preview = None if preview is None else jpeg_url(preview)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the page."""
        if state.is_world_process_zero and state.global_step:
            write_training_page(self.folder, state, self.title, self.settings, self.preview)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the page a last time."""
        self.on_evaluate(args, state, control)


def write_training_page(
    folder: Path, state: Any, title: str, settings: Mapping[str, Any], preview: str | None = None
) -> Path:
    """Write the page of a training.

    Args:
        folder: Folder to write to.
        state: The trainer's `TrainerState`, or one read from a checkpoint's `trainer_state.json`.
        title: Heading.
        settings: Training settings.
        preview: Data URL of the contact sheet, see `jpeg_url`.

    Returns:
        Path of the page.
    """
    log: Log = state.log_history
    drawn = [
        ("Training loss", curves(log, {"loss": "loss"}, "Loss")),
        ("Loss terms of the last layer", curves(log, _terms(log), "Loss")),
        ("Average precision on the validation images", curves(log, SCORES, "AP", marker=".")),
        ("AP by object size", curves(log, SIZES, "AP", marker=".")),
        ("Learning rate (the backbone has its own)", curves(log, RATE, "Learning rate")),
        ("Gradient norm before clipping", curves(log, NORM, "Norm", log_scale=True)),
    ]
    evaluations, columns = _evaluations(log)
    page = folder / PAGE
    text = render_page(
        Path(__file__).parent,
        "training_report.html.jinja",
        title=title,
        summary=f"Step {state.global_step:,} of {state.max_steps:,}, epoch {state.epoch or 0:.1f}",
        skipped=int(max((entry.get("skipped_steps", 0) for entry in log), default=0)),
        headline=_headline(log),
        charts=[{"caption": caption, "src": svg_url(svg)} for caption, svg in drawn if svg is not None],
        evaluations=evaluations,
        columns=columns,
        preview=preview,
        settings=settings,
    )
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def _terms(log: Log) -> dict[str, str]:
    """Return the logged loss terms with their names to show."""
    logged_terms = dict.fromkeys(name for entry in log for name in entry if name.startswith("loss_"))
    return {name: TERM_NAMES.get(name, name.removeprefix("loss_")) for name in [*TERM_NAMES, *logged_terms]}


def _headline(log: Log) -> list[tuple[str, str]]:
    """Return the best scores and the newest loss."""
    headline = []
    for name, shown in SCORES.items():
        values = logged(log, name)
        if len(values):
            headline.append((f"best {shown}", f"{values[:, 1].max():.1f}"))
    loss = logged(log, "loss")
    if len(loss):
        headline.append(("final loss", f"{loss[-1, 1]:.3f}"))
    return headline


def _evaluations(log: Log) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each evaluation, newest first, and the names of the columns."""
    names = {name: shown for name, shown in {**SCORES, **SIZES}.items() if len(logged(log, name))}
    entries = {entry["step"]: entry for entry in log if "eval_AP" in entry}
    best = max(entries.values(), key=lambda entry: entry["eval_AP"], default=None)
    rows = [
        {
            "epoch": f"{entry['epoch']:.1f}",
            "scores": [entry.get(name, float("nan")) for name in names],
            "best": entry is best,
        }
        for _, entry in sorted(entries.items(), reverse=True)
    ]
    return rows, list(names.values())
