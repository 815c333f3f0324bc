"""Videos: frames as upright images with times, and annotated copies with the same sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

try:
    import av
    from av.video.reformatter import ColorRange, Colorspace
except ImportError as error:
    raise ImportError("videos need PyAV: pip install av") from error

KEEP_CONTAINER = frozenset({".m4v", ".mkv", ".mov", ".mp4"})
"""Endings of files that a copy can have too; others become Matroska, which holds every kind of sound."""

QUALITY = {"crf": "20", "preset": "veryfast"}
"""Settings of the H.264 encoder: hardly a loss to the eye."""

_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
_BT709 = 1  # H.264's number for the matrix, primaries and transfer of HD television


class VideoError(OSError):
    """A file is not a video or cannot be read; the message names it."""


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Attributes:
        number: Its place, from 0.
        time: When it is shown, in seconds.
        image: The upright RGB image, converted on access.
    """

    number: int
    time: float
    _frame: Any

    @property
    def image(self) -> Image.Image:
        """The upright RGB image."""
        image: Image.Image = self._frame.to_image()
        turn = _TURNS.get(self._frame.rotation % 360)
        return image if turn is None else image.transpose(turn)


@dataclass(frozen=True)
class VideoFacts:
    """Properties of a video, from its file.

    Attributes:
        frames: Number of frames; an estimate, or None where nothing tells.
        rate: Frames per second, about.
        sounds: Number of sound tracks.
    """

    frames: int | None
    rate: float
    sounds: int


def read_facts(path: Path) -> VideoFacts:
    """Read the properties of a video.

    Raises:
        VideoError: It cannot be read.
    """
    with _opened(path) as source:
        stream = source.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        seconds = stream.duration * stream.time_base if stream.duration else None
        if seconds is None and source.duration:
            seconds = Fraction(source.duration, av.time_base)
        frames = stream.frames or (round(seconds * Fraction(rate)) if seconds else None)
        return VideoFacts(frames, rate, len(source.streams.audio))


def read_frames(path: Path, stride: int = 1, start: int = 0) -> Iterator[VideoFrame]:
    """Read frames, in the order in which they are shown.

    Args:
        path: The video.
        stride: Yield only the frames whose number is a multiple of this.
        start: Number of the first frame to give. Those before it are decoded, as the later ones build on them, but
            not converted.

    Yields:
        The frames. Damaged ones are passed over and have no number.

    Raises:
        VideoError: The video cannot be read.
    """
    with _opened(path) as source:
        for item in _frames_and_sound(source.demux(source.streams.video[0])):
            if isinstance(item, VideoFrame) and item.number >= start and item.number % stride == 0:
                yield item


def write_copy(
    path: Path,
    target: Path,
    draw: Callable[[VideoFrame], Image.Image],
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Write a copy of a video with redrawn frames at the same times. The sound is copied without re-encoding.

    Args:
        path: The video.
        target: The file to write, with an ending out of `KEEP_CONTAINER`; it appears when it is complete.
        draw: Returns the RGB image of a frame, of the same size.
        progress: Called after each frame.

    Raises:
        VideoError: The video cannot be read.
    """
    first = next(read_frames(path), None)
    if first is None:
        raise VideoError(f"{path}: no frame can be decoded")
    temporary = target.with_name(f"{target.stem}.part{target.suffix}")
    with _opened(path) as source, av.open(str(temporary), "w") as copy:
        video = source.streams.video[0]
        written = _add_video(copy, video, _even(first.image).size)
        sounds = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams.audio}
        for item in _frames_and_sound(source.demux(video, *source.streams.audio)):
            if isinstance(item, VideoFrame):
                copy.mux(written.encode(_encodable(_even(draw(item)), item)))
                progress()
            else:
                item.stream = sounds[item.stream.index]
                copy.mux(item)
        copy.mux(written.encode(None))
    temporary.replace(target)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a video, and turn what PyAV says into an error that names the file."""
    try:
        with av.open(str(path)) as source:
            if not source.streams.video:
                raise VideoError(f"{path}: the file has no video stream")
            source.streams.video[0].thread_type = "AUTO"
            yield source
    except av.error.FFmpegError as error:
        reason = error.strerror or "damaged, or no video"
        raise VideoError(f"{path}: cannot be read as a video ({reason})") from error


def _frames_and_sound(packets: Iterator[Any]) -> Iterator[Any]:
    """Yield the numbered frames, and the packets of sound, of the packets of a video."""
    number = 0
    for packet in packets:
        if packet.stream.type != "video":
            if packet.dts is not None:  # at the end of a stream there is an empty packet
                yield packet
            continue
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        for frame in frames:
            if frame.pts is not None:
                yield VideoFrame(number, float(frame.pts * frame.time_base), frame)
                number += 1


def _add_video(copy: Any, video: Any, size: tuple[int, int]) -> Any:
    """Add the video stream: H.264, with the source's clock."""
    written = copy.add_stream("libx264", rate=video.average_rate or video.guessed_rate or 25, options=QUALITY)
    written.width, written.height = size
    written.pix_fmt = "yuv420p"
    written.time_base = written.codec_context.time_base = video.time_base
    written.codec_context.colorspace = Colorspace.ITU709
    written.codec_context.color_primaries = written.codec_context.color_trc = _BT709
    written.codec_context.color_range = ColorRange.MPEG
    return written


def _encodable(image: Image.Image, frame: VideoFrame) -> Any:
    """Return an image as the encoder takes it, at the time of a frame."""
    encodable = av.VideoFrame.from_image(image).reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
    encodable.pts, encodable.time_base = frame._frame.pts, frame._frame.time_base
    return encodable


def _even(image: Image.Image) -> Image.Image:
    """Return an image with even sides, as H.264 needs: the last column or row is repeated."""
    width, height = image.size
    if width % 2 == height % 2 == 0:
        return image
    even = Image.new("RGB", (width + width % 2, height + height % 2))
    even.paste(image, (width % 2, height % 2))
    even.paste(image, (0, 0))
    return even
