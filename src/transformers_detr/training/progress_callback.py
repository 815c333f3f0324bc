"""Progress bar of a training, with the newest losses and AP."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

SHOWN = {
    "loss": "loss",
    "loss_ce": "class",
    "loss_bbox": "L1",
    "loss_giou": "GIoU",
    "loss_mask": "mask",
    "loss_dice": "dice",
    "eval_AP": "AP",
    "eval_AP50": "AP50",
    "eval_mask_AP": "mask AP",
    "skipped_steps": "skipped",
}
"""Logged value → name in the bar."""


class ProgressBar(TrainerCallback):
    """One progress bar for the whole training, on standard error of the first process."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.values: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Show the newest values."""
        self.values |= {SHOWN[name]: f"{value:.3g}" for name, value in (logs or {}).items() if name in SHOWN}
        if self.bar is not None:
            self.bar.set_postfix(self.values)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
