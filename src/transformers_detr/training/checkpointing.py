"""Checkpoints: the plain model to use, the weights to resume from, written atomically."""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from transformers_detr.training.training_aids import WITH_AIDS

TRAINING_WEIGHTS = "training_weights.safetensors"
"""File of the weights as the optimizer has them; `model.safetensors` beside it is the plain model to use."""

TRAINING_ONLY = re.compile(r"^extra_queries\.|num_batches_tracked$")

STAGING = ".being_written"

_PLAIN: dict[type, type] = {aided: plain for plain, aided in WITH_AIDS.items()}


def save_plain_model(model: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Save a model as a plain DETR, without the parts that only training needs.

    Args:
        model: A model in training, perhaps with training aids, trainable batch norms or LoRA.
        folder: Where `config.json` and `model.safetensors` go.
        weights: Its weights, where they are not in the model itself because processes share them.
    """
    if hasattr(model, "merge_and_unload"):  # LoRA by peft
        model, weights = copy.deepcopy(model).merge_and_unload(), None
    weights = model.state_dict() if weights is None else weights
    weights = {name: value for name, value in weights.items() if not TRAINING_ONLY.search(name)}
    kind = type(model)
    model.__class__ = _PLAIN.get(kind, kind)  # the name that goes into config.json
    try:
        model.save_pretrained(folder, state_dict={name: value.contiguous() for name, value in weights.items()})
    finally:
        model.__class__ = kind


def save_weights(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Save all weights of modules by name, for `load_weights`."""
    weights: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        weights |= {f"{prefix}.{name}": value.contiguous().clone() for name, value in module.state_dict().items()}
    safetensors.torch.save_file(weights, folder / TRAINING_WEIGHTS)


def load_weights(modules: Mapping[str, nn.Module], folder: Path) -> None:
    """Load weights that `save_weights` wrote for the same modules."""
    weights = safetensors.torch.load_file(folder / TRAINING_WEIGHTS)
    for prefix, module in modules.items():
        own = {
            name.removeprefix(f"{prefix}."): value for name, value in weights.items() if name.startswith(f"{prefix}.")
        }
        module.load_state_dict(own)


@contextmanager
def atomic_checkpoint(
    folder: Path, is_main: bool = True, wait_for_all: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield a folder to write into; it is renamed to `folder` in one step when complete.

    A process that is killed leaves `folder` unchanged; its half-written files are removed by the next use.

    Args:
        folder: Final name; an existing folder is replaced.
        is_main: Whether this process creates and renames the folder; one of several must.
        wait_for_all: Returns when all processes have called it.
    """
    temporary = folder.parent / STAGING / folder.name
    if is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    wait_for_all()
    yield temporary
    wait_for_all()
    if is_main:
        _take_name(temporary, folder)
    wait_for_all()


def _take_name(temporary: Path, folder: Path) -> None:
    """Flush the written files to disk, then rename the folder."""
    for path in temporary.rglob("*"):
        if path.is_file():
            _to_disk(path)
    if folder.exists():
        outdated = temporary.with_name(f"{folder.name}.outdated")
        shutil.rmtree(outdated, ignore_errors=True)
        folder.replace(outdated)
    temporary.replace(folder)
    _to_disk(folder.parent)
    shutil.rmtree(folder.parent / STAGING, ignore_errors=True)


def remove_old_checkpoints(folder: Path, keep: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints of a run.

    Args:
        folder: The run's folder.
        keep: Number of checkpoints to keep, the best one included; None keeps all. The newest one always stays.
        best: The best checkpoint, which stays.
    """
    if not keep:
        return
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    spared = {found[-1]} if found else set()
    spared |= {Path(best)} if best else set()
    others = [path for path in found if path not in spared]
    for path in others[: max(len(found) - max(keep, len(spared)), 0)]:
        doomed = folder / STAGING / path.name  # renamed first: a folder named checkpoint-N is always complete
        doomed.parent.mkdir(exist_ok=True)
        path.replace(doomed)
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
