"""One page per training, with its curves and what the model sees; written anew after every evaluation."""

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

TERMS = {
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


class TrainingPage(TrainerCallback):
    """Keeps `training.html` in the output folder up to date, so that a browser can follow the training.

    Args:
        folder: Output folder.
        title: Heading of the page.
        settings: How it is trained, shown as a table.
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
        """Write it for the last time."""
        self.on_evaluate(args, state, control)


def write_training_page(
    folder: Path, state: Any, title: str, settings: Mapping[str, Any], preview: str | None = None
) -> Path:
    """Write the page of a training.

    Args:
        folder: Where to.
        state: The loop's `TrainerState`, also as read from a checkpoint's `trainer_state.json`.
        title: Heading.
        settings: How it was trained.
        preview: Address of a picture, see `jpeg_url`.

    Returns:
        Its path.
    """
    log: Log = state.log_history
    drawn = [
        ("Loss on the training images", curves(log, {"loss": "loss"}, "Loss")),
        ("Its terms, of the last layer", curves(log, TERMS, "Loss")),
        ("Average precision on the validation images", curves(log, SCORES, "AP", marker=".")),
        ("AP by object size", curves(log, SIZES, "AP", marker=".")),
        ("Learning rate (the backbone has its own)", curves(log, RATE, "Learning rate")),
        ("Norm of the gradient, before it is cut", curves(log, NORM, "Norm", log_scale=True)),
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
    with atomic_file(page) as aside:
        aside.write_text(text, encoding="utf-8")
    return page


def _headline(log: Log) -> list[tuple[str, str]]:
    """The best scores, and the newest loss."""
    headline = []
    for name, shown in SCORES.items():
        values = logged(log, name)
        if len(values):
            headline.append((f"best {shown}", f"{100 * values[:, 1].max():.1f}"))
    loss = logged(log, "loss")
    if len(loss):
        headline.append(("loss at last", f"{loss[-1, 1]:.3f}"))
    return headline


def _evaluations(log: Log) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each evaluation, newest first, and the names of the columns."""
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
