"""Tracking: numbers that objects keep from frame to frame."""

from __future__ import annotations

import numpy as np

from transformers_detr.inference.detections import Detections


class Tracker:
    """Tracker of objects in one video, by ByteTrack of the package `trackers`.

    Args:
        rate: Frames looked at per second; an object that is gone for a second gets a new number.
        threshold: Score from which on an object is followed.

    Raises:
        ImportError: `trackers` is not installed.
    """

    def __init__(self, rate: float, threshold: float):
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ImportError("tracking needs trackers: pip install trackers") from error
        self._tracker = ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=1,
        )

    def update(self, found: Detections) -> list[int | None]:
        """Take the objects of the next frame.

        Returns:
            The number of each of them, in their order; None where it is not followed.
        """
        theirs = found.to_supervision()
        theirs.data["place"] = np.arange(len(found))
        followed = self._tracker.update(theirs)
        numbers: list[int | None] = [None] * len(found)
        if followed.tracker_id is not None:
            for place, number in zip(followed.data.get("place", ()), followed.tracker_id.tolist(), strict=True):
                numbers[int(place)] = number if number >= 0 else None
        return numbers
