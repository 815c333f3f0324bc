"""Detect objects in a video: a record for each frame, then an annotated copy with the original's sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from transformers_detr.inference.detection_output import CSV_TABLE, write_csv
from transformers_detr.inference.prediction_writer import PREDICTIONS, PredictionWriter
from transformers_detr.inference.predictions import Record, read_records, to_detections, to_entries, to_line

if TYPE_CHECKING:
    from PIL import Image

    from transformers_detr.inference.detector import Detector
    from transformers_detr.inference.video import VideoFrame

ANNOTATED = "annotated"
TRACKS = "tracks.jsonl"
ANY_NUMBER = 10**9


class _OneFile(Sequence[str]):
    """Location of each frame of a video; its length, the number of frames, is unknown."""

    def __init__(self, location: str):
        self.location = location

    def __len__(self) -> int:
        return ANY_NUMBER

    def __getitem__(self, index: Any) -> Any:
        return self.location


@dataclass(frozen=True)
class VideoRun:
    """A video, its output folder and its tracker, ready to be worked on.

    Attributes:
        path: The video.
        run: The output folder.
        frames: Number of frames to look at; None if unknown.
        all_frames: Number of frames of the video; None if unknown.
        stride: Every `stride`-th frame is looked at; its boxes stay until the next one.
        tracker: Numbers objects from frame to frame; None if not wanted.
    """

    path: Path
    run: PredictionWriter
    frames: int | None
    all_frames: int | None
    stride: int
    tracker: Any


def open_video_run(
    path: Path,
    output_dir: Path,
    settings: dict[str, Any],
    *,
    stride: int = 1,
    track: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> VideoRun:
    """Open the output folder of a video.

    Args:
        path: The video.
        output_dir: Folder for the results.
        settings: Settings of the results, with `threshold`; a resumed run must have the same.
        stride: Look at every `stride`-th frame.
        track: Give objects a number that they keep from frame to frame.
        resume: Resume the run in the folder.
        overwrite: Replace it.

    Returns:
        The run.

    Raises:
        VideoError: The video cannot be read.
        ImportError: A library is missing.
        PredictionsError: The folder holds another run.
    """
    from transformers_detr.inference.tracking import Tracker
    from transformers_detr.inference.video import read_facts

    facts = read_facts(path)
    tracker = Tracker(facts.rate / stride, settings["threshold"]) if track else None
    settings = {**settings, "stride": stride, "bytes": path.stat().st_size}
    run = PredictionWriter(output_dir, settings, _OneFile(str(path)), resume=resume, overwrite=overwrite)
    frames = None if facts.frames is None else -(-facts.frames // stride)
    return VideoRun(path, run, frames, facts.frames, stride, tracker)


def detect_in_video(
    detector: Detector,
    video: VideoRun,
    *,
    threshold: float,
    batch_size: int = 4,
    progress: Callable[[Record], None] = lambda record: None,
) -> int:
    """Detect objects in the frames that have no record yet, then write the tracks and the CSV table.

    Args:
        detector: The detector.
        video: See `open_video_run`.
        threshold: Minimum score.
        batch_size: Frames per batch.
        progress: Called with each record after it is written.

    Returns:
        Number of detections in all frames.

    Raises:
        VideoError: The video cannot be read.
        OSError: A file cannot be written. The run can be resumed.
    """
    run, tracker = video.run, video.tracker
    run.set_model(detector.model)
    for record in _records(video.path, detector, len(run.done), video.stride, threshold, batch_size):
        run.append(record)
        progress(record)
    if tracker is not None:
        run.write_file(TRACKS, lambda file: _write_tracks(run, tracker, file))
    columns = (["uri", "frame", "time"], [] if tracker is None else ["track"])
    run.write_file(CSV_TABLE, lambda file: write_csv(read_records(run.folder / _lines(video)), file, *columns))
    return sum(len(record["detections"]) for record in run.records())


def write_annotated_video(video: VideoRun, progress: Callable[[], None] = lambda: None) -> Path:
    """Write the annotated copy, with the sound of the original.

    Args:
        video: A run whose frames all have a record.
        progress: Called after each frame.

    Returns:
        The copy.

    Raises:
        VideoError: The video cannot be read or written.
    """
    from transformers_detr.inference.video import KEEP_CONTAINER, write_copy

    records = read_records(video.run.folder / _lines(video))
    shown: dict[str, Any] = {}

    def draw(frame: VideoFrame) -> Image.Image:
        nonlocal shown
        if frame.number % video.stride == 0:
            shown = next(records, shown)
        return _draw(shown, frame.image)

    ending = video.path.suffix if video.path.suffix.lower() in KEEP_CONTAINER else ".mkv"
    target = video.run.folder / ANNOTATED / f"{video.path.stem}{ending}"
    target.parent.mkdir(exist_ok=True)
    write_copy(video.path, target, draw, progress)
    return target


def _lines(video: VideoRun) -> str:
    return PREDICTIONS if video.tracker is None else TRACKS


def _records(
    path: Path, detector: Detector, done: int, stride: int, threshold: float, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield the record of each frame looked at, after the first `done`.

    Work begins at a window's start, so that a resumed run gives the same numbers.
    """
    from transformers_detr.inference.predictor import window_length
    from transformers_detr.inference.video import read_frames

    begin = done - done % window_length(batch_size)
    waiting: deque[tuple[int, float]] = deque()

    def images() -> Iterator[Image.Image]:
        for frame in read_frames(path, stride, begin * stride):
            waiting.append((frame.number, frame.time))
            yield frame.image

    def records() -> Iterator[dict[str, Any]]:
        for found in detector.stream(images(), threshold=threshold, batch_size=batch_size):
            number, time = waiting.popleft()
            height, width = found.image_size
            place = {"id": number, "uri": str(path), "frame": number, "time": round(time, 6)}
            yield {**place, "height": height, "width": width, "detections": to_entries(found)}

    return islice(records(), done - begin, None)


def _write_tracks(run: PredictionWriter, tracker: Any, file: IO[str]) -> None:
    """Write the predictions file again, with the number of each object as its `track`."""
    file.write(to_line(run.header.to_json()))
    for record in run.records():
        numbers = tracker.update(to_detections(record))
        pairs = zip(record["detections"], numbers, strict=True)
        entries = [{**entry, "track": number} for entry, number in pairs]
        file.write(to_line({**record, "detections": entries}))


def _draw(record: dict[str, Any], image: Image.Image) -> Image.Image:
    found = to_detections(record)
    names = [
        entry["label"] if entry.get("track") is None else f"{entry['label']} {entry['track']}:"
        for entry in record["detections"]
    ]
    return replace(found, labels=names).draw(image)
