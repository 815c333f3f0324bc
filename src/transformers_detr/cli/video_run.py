"""`detr detect clip.mp4`: first a line of JSON for each frame looked at, then the annotated copy with its sound."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from transformers_detr.cli.detection_records import CSV_TABLE, detections_of, entries_of, write_csv
from transformers_detr.cli.run_folder import PROGRESS_COLUMNS, RECORDS, RunFolder, RunFolderError, fill_run_folder

if TYPE_CHECKING:
    from PIL import Image

    from transformers_detr.inference.detector import Detector
    from transformers_detr.inference.video import VideoFrame

ANNOTATED = "annotated"
TRACKS = "tracks.jsonl"
ANY_NUMBER = 10**9


class _OneFile(Sequence[str]):
    """The location of each frame of a video, of which nobody knows for sure how many there are."""

    def __init__(self, location: str):
        self.location = location

    def __len__(self) -> int:
        return ANY_NUMBER

    def __getitem__(self, index: Any) -> Any:
        return self.location


def detect_in_videos(
    paths: list[Path],
    output: Path | None,
    load: Callable[[], Any],
    settings: dict[str, Any],
    console: Console,
    **options: Any,
) -> None:
    """Find objects in videos, and end the command with its status; each of several has a folder of its own.

    Args:
        paths: The videos.
        output: Folder for the results.
        load: Loads the detector.
        settings: See `_detect_in_video`, likewise for the rest.
        console: For progress and errors.
        **options: Further arguments of `_detect_in_video`.

    Raises:
        typer.Exit: Always.
        typer.BadParameter: The arguments do not go together.
    """
    if output is None:
        raise typer.BadParameter("a video needs a folder for results", param_hint="--output")
    if options["resume"] and options["overwrite"]:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    try:
        import transformers_detr.inference.video  # noqa: F401
    except ImportError as error:
        console.print(f"[red]{escape(str(error))}[/]")
        raise typer.Exit(1) from error
    detector, failed = load(), False
    for path in paths:
        try:
            folder = output / path.stem if len(paths) > 1 else output
            _detect_in_video(path, folder, detector, settings, console=console, **options)
        except RunFolderError as error:
            raise typer.BadParameter(str(error), param_hint="--output") from error
        except (OSError, ImportError, ValueError) as error:
            console.print(f"[red]Failed.[/] {escape(str(error))}")
            failed = True
    raise typer.Exit(1 if failed else 0)


def _detect_in_video(
    path: Path,
    output: Path,
    detector: Detector,
    settings: dict[str, Any],
    *,
    stride: int,
    track: bool,
    pictures: bool,
    resume: bool,
    overwrite: bool,
    console: Console,
) -> None:
    """Find objects in every `stride`-th frame of a video, and draw them.

    Args:
        path: The video.
        output: Folder for the results.
        detector: Finds objects.
        settings: What the results depend on, with `threshold` and `batch_size`; a resumed run must share it.
        stride: Of so many frames one is looked at; its boxes stay until the next one.
        track: Whether objects get a number that they keep from frame to frame.
        pictures: Whether to write the annotated copy.
        resume: Go on with the run in the folder.
        overwrite: Replace it.
        console: For the progress.

    Raises:
        VideoError: The video cannot be read.
        ImportError: A library is missing.
        RunFolderError: The folder does not allow it.
        typer.Exit: The run was stopped.
    """
    from transformers_detr.inference.tracking import Tracker
    from transformers_detr.inference.video import read_facts

    facts = read_facts(path)
    tracker = Tracker(facts.rate / stride, settings["threshold"]) if track else None  # first, it may be missing
    settings = {**settings, "stride": stride, "bytes": path.stat().st_size}
    run = RunFolder(output, settings, _OneFile(str(path)), resume=resume, overwrite=overwrite)
    total = None if facts.frames is None else -(-facts.frames // stride)
    records = _records(path, detector, run.done, stride, settings["threshold"], settings["batch_size"])
    pace = fill_run_folder(run, records, total, console, noun="frames")
    lines = RECORDS
    if tracker is not None:
        lines = TRACKS
        run.write_aside(TRACKS, lambda file: _write_tracks(run, tracker, file))
    columns = (["file", "frame", "time"], ["track"] if track else [])
    run.write_aside(CSV_TABLE, lambda file: write_csv(_read(output / lines), file, *columns))
    results = output / _annotate(path, output, lines, stride, facts.frames, console) if pictures else output
    found = sum(len(record["detections"]) for record in run.records())
    typer.echo(f"frames: {run.done}, detections: {found}{pace}; results in {results}")


def _records(
    path: Path, detector: Detector, done: int, stride: int, threshold: float, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield the record of each frame looked at, after the first `done`.

    As with pictures, work begins at a window's start, so that a stopped run gives the same numbers.
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
            place = {"file": str(path), "frame": number, "time": round(time, 6), "height": height, "width": width}
            yield {**place, "detections": entries_of(found)}

    return islice(records(), done - begin, None)


def _write_tracks(run: RunFolder, tracker: Any, file: IO[str]) -> None:
    """Write the records again, with the number of each object as its `track`."""
    for record in run.records():
        numbers = tracker.update(detections_of(record))
        pairs = zip(record["detections"], numbers, strict=True)
        entries = [{**entry, "track": number} for entry, number in pairs]
        file.write(json.dumps({**record, "detections": entries}, ensure_ascii=False) + "\n")


def _annotate(path: Path, output: Path, lines: str, stride: int, frames: int | None, console: Console) -> str:
    """Write the annotated copy; return its name in the output folder."""
    from transformers_detr.inference.video import KEEP_CONTAINER, write_copy

    records = _read(output / lines)
    shown: dict[str, Any] = {}

    def draw(frame: VideoFrame) -> Image.Image:
        nonlocal shown
        if frame.number % stride == 0:
            shown = next(records, shown)
        return _draw(shown, frame.image)

    ending = path.suffix if path.suffix.lower() in KEEP_CONTAINER else ".mkv"
    name = f"{ANNOTATED}/{path.stem}{ending}"
    (output / ANNOTATED).mkdir(exist_ok=True)
    with Progress(*PROGRESS_COLUMNS, console=console, transient=True) as bar:
        task = bar.add_task("", total=frames)
        write_copy(path, output / name, draw, lambda: bar.advance(task))
    return name


def _draw(record: dict[str, Any], image: Image.Image) -> Image.Image:
    found = detections_of(record)
    names = [
        entry["label"] if entry.get("track") is None else f"{entry['label']} {entry['track']}:"
        for entry in record["detections"]
    ]
    return replace(found, labels=names).draw(image)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)
