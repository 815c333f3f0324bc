"""Videos for tests: a square that moves over a colored ground, and a tone."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 22050


def frame_array(number: int, size: tuple[int, int]) -> np.ndarray:
    """What frame `number` shows, `(H, W, 3)`."""
    width, height = size
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:] = (200, 60, 40)
    left = (3 * number) % (width - 16)
    pixels[8:24, left : left + 16] = (30, 90, 220)
    return pixels


def make_video(
    path: Path,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = (64, 48),
    seconds: int = 2,
    rate: int = 10,
    codec: str = "libx264",
    sound: str | None = "aac",
) -> Path:
    """Write a video; `times` are the frames' in milliseconds, if they are not evenly spread."""
    if times is None:
        times = [round(1000 * number / rate) for number in range(seconds * rate)]
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream(codec, rate=rate)
        video.width, video.height = size
        video.pix_fmt = "yuv420p" if codec == "libx264" else "bgr0"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        audio: Any = file.add_stream(sound, rate=RATE) if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(frame_array(number, size))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if audio is not None:
            for start in range(0, round(times[-1] / 1000 * RATE), 1024):
                wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(start, start + 1024) / RATE)
                if sound == "aac":
                    both = np.stack([wave, wave]).astype(np.float32)
                    tone = av.AudioFrame.from_ndarray(both, format="fltp", layout="stereo")
                else:
                    pairs = np.repeat(wave * 32767, 2)[None].astype(np.int16)
                    tone = av.AudioFrame.from_ndarray(pairs, format="s16", layout="stereo")
                tone.sample_rate, tone.pts, tone.time_base = RATE, start, Fraction(1, RATE)
                file.mux(audio.encode(tone))
            file.mux(audio.encode(None))
    return path


def times_of(path: Path) -> list[float]:
    """When each frame is shown, in seconds."""
    with av.open(str(path)) as file:
        frames: list[Any] = list(file.decode(video=0))
        return [float(frame.pts * frame.time_base) for frame in frames]


def sound_of(path: Path) -> list[tuple[float, bytes]]:
    """Time, in seconds, and bytes of each packet of sound."""
    with av.open(str(path)) as file:
        packets: list[Any] = list(file.demux(file.streams.audio[0]))
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets if packet.dts is not None]


def frame_arrays(path: Path) -> np.ndarray:
    """`(N, H, W, 3)` bytes."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
