"""Evaluation in several processes: division of the images, and collection without duplicates."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed

from transformers_detr.evaluation.predictions import ImagePrediction
from transformers_detr.inference.prediction_writer import process_number

Item = TypeVar("Item")


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """Return the items of this process; each item belongs to exactly one process."""
    rank, world = process_number()
    return items[rank::world]


@contextmanager
def join_processes() -> Iterator[int]:
    """Join the processes that torchrun started, if any; yield the number of this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield process_number()[0]
        return
    torch.distributed.init_process_group("gloo")  # only predictions on disk are exchanged
    try:
        yield process_number()[0]
    finally:
        leave_processes()


def leave_processes() -> None:
    """Leave the process group, if there is one; call this last, after every trainer is released.

    The threads of a group end with its last holder, and a wrapped model holds it too. One that is still giving
    back tensors of the last exchange while Python shuts down would abort the process, with all work done.
    """
    gc.collect()  # wrapped models are parts of cycles
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather_predictions(predictions: Iterable[ImagePrediction]) -> list[ImagePrediction]:
    """Return the predictions of all processes in every process, one per image, ordered by image id."""
    own = list(predictions)
    everyone = [own] * process_number()[1]
    if len(everyone) > 1:
        torch.distributed.all_gather_object(everyone, own)
    by_image = {prediction.image_id: prediction for part in everyone for prediction in part}
    return [by_image[image_id] for image_id in sorted(by_image)]
