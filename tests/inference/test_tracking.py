"""Numbers that objects keep."""

import numpy as np
import pytest

from transformers_detr.inference.detections import Detections
from transformers_detr.inference.tracking import Tracker


def frame(*boxes):
    return Detections(
        boxes_xyxy_px=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.full(len(boxes), 0.8, dtype=np.float32),
        class_ids=np.zeros(len(boxes), dtype=np.int64),
        labels=["cat"] * len(boxes),
        image_size=(100, 200),
    )


def test_objects_keep_their_numbers_in_whatever_order_they_come():
    tracker = Tracker(rate=10, threshold=0.5)
    seen = []
    for time in range(6):
        first, second = [10 + 2 * time, 10, 40 + 2 * time, 40], [120, 50 - time, 160, 90 - time]
        boxes = [first, second] if time % 2 else [second, first]
        numbers = tracker.update(frame(*boxes))
        seen.append(numbers if time % 2 else numbers[::-1])
    assert seen[1:] == [seen[1]] * 5
    assert None not in seen[1]
    assert seen[1][0] != seen[1][1]


def test_frames_without_objects():
    tracker = Tracker(rate=10, threshold=0.5)
    assert tracker.update(frame()) == []
    assert len(tracker.update(frame([0, 0, 9, 9]))) == 1
    assert tracker.update(frame()) == []


def test_without_trackers_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "trackers", None)
    with pytest.raises(ImportError, match="pip install trackers"):
        Tracker(10, 0.5)
