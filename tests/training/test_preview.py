from __future__ import annotations

import numpy as np

from transformers_detr.training.augmentation import augmentations
from transformers_detr.training.dataset import Draw, TrainingDataset
from transformers_detr.training.preview import CELL, contact_sheet


def test_masks_lie_on_their_objects_in_the_preview(scenes):
    transforms = augmentations("none", [96], 144)
    plain, masked = (TrainingDataset(scenes.split("train"), transforms, masks) for masks in (False, True))
    sheets = [
        np.asarray(contact_sheet(images, scenes.class_names, [96], count=4, seed=1)) for images in (plain, masked)
    ]
    differs = (sheets[0] != sheets[1]).any(2)
    assert differs.shape == (2 * CELL, 2 * CELL)
    indices = np.random.default_rng(1).permutation(len(plain))[:4]
    covered = [masked[Draw(int(index), 96, 0)]["labels"]["masks"].any(0).float().mean() for index in indices]
    for place, share in enumerate(covered):
        row, column = divmod(place, 2)
        found = differs[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].mean()
        assert (found > 0) == (share > 0)
        assert found <= share * 1.3 + 0.02  # outlines reach a little beyond
