"""Reading frames, and writing copies whose timing and sound are the source's; PyAV alone is the judge."""

from types import SimpleNamespace

import numpy as np
import pytest
from made_video import frame_array, frame_arrays, make_video, sound_of, times_of
from PIL import Image

from transformers_detr.inference.video import VideoError, VideoFrame, read_facts, read_frames, write_copy

UNEVEN = [0, 40, 90, 250, 260, 700, 710, 1500]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "clip.mp4")


def test_facts(clip):
    facts = read_facts(clip)
    assert (facts.frames, facts.sounds) == (20, 1)
    assert facts.rate == pytest.approx(10, rel=0.05)


def test_frames_have_numbers_times_and_images(clip):
    frames = list(read_frames(clip))
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == times_of(clip) == pytest.approx(np.arange(20) / 10)
    assert np.abs(np.asarray(frames[7].image) - frame_array(7, (64, 48)).astype(int)).mean() < 8


def test_stride_and_start(clip):
    assert [frame.number for frame in read_frames(clip, stride=6)] == [0, 6, 12, 18]
    later = list(read_frames(clip, stride=6, start=7))
    assert [frame.number for frame in later] == [12, 18]
    assert later[0].image == next(frame for frame in read_frames(clip) if frame.number == 12).image


@pytest.mark.parametrize(("angle", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (2, 1)), (-90, (1, 0))])
def test_frames_are_upright(angle, corner):
    """An angle counts against the clock: the upper left corner of the stored image goes down, right, up."""
    stored = Image.new("RGB", (3, 2))
    stored.putpixel((0, 0), (255, 0, 0))
    upright = VideoFrame(0, 0.0, SimpleNamespace(rotation=angle, to_image=lambda: stored)).image
    if angle in (90, -90):
        assert upright.size == (2, 3)
        corner = {90: (0, 2), -90: (1, 0)}[angle]
    assert upright.getpixel(corner) == (255, 0, 0)


@pytest.mark.parametrize(
    ("source", "target", "made"),
    [
        ("a.mp4", "b.mp4", {}),
        ("a.mp4", "b.mov", {"times": UNEVEN}),
        ("a.mkv", "b.mkv", {"times": UNEVEN, "codec": "ffv1", "sound": "pcm_s16le"}),
        ("a.avi", "b.mkv", {"codec": "ffv1", "sound": "pcm_s16le"}),
    ],
    ids=["mp4", "uneven", "matroska", "avi"],
)
def test_copy_keeps_timing_and_sound(tmp_path, source, target, made):
    source, target = make_video(tmp_path / source, **made), tmp_path / target
    counted = []
    write_copy(source, target, lambda frame: frame.image, lambda: counted.append(1))
    times = times_of(source)
    assert len(counted) == len(times)
    assert times_of(target) == pytest.approx(times, abs=1e-3)
    ours, theirs = sound_of(target), sound_of(source)
    assert b"".join(data for _, data in ours) == b"".join(data for _, data in theirs)
    assert ours[0][0] == pytest.approx(theirs[0][0], abs=1e-3)
    assert ours[-1][0] == pytest.approx(theirs[-1][0], abs=1e-3)
    assert not list(tmp_path.glob("*.part.*"))


def test_copy_shows_what_was_drawn_in_true_colors(tmp_path):
    """Sides that are odd grow by a column and a row, as H.264 wants."""
    source = make_video(tmp_path / "a.mkv", size=(65, 49), codec="ffv1", sound=None)

    def draw(frame):
        image = frame.image
        image.paste((240, 200, 20), (40, 30, 60, 45))
        return image

    write_copy(source, tmp_path / "b.mp4", draw)
    shown = frame_arrays(tmp_path / "b.mp4").astype(int)
    assert shown.shape == (20, 50, 66, 3)
    assert np.abs(shown[:, 33:42, 43:57] - (240, 200, 20)).max() < 12
    expected = np.stack([frame_array(number, (65, 49)) for number in range(20)])
    assert np.abs(shown[:, :28, :65] - expected[:, :28]).mean() < 6


def test_what_is_no_video(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video at all, but some words\n" * 20)
    for function in (read_facts, lambda path: next(read_frames(path))):
        with pytest.raises(VideoError, match=r"text\.mp4: cannot be read as a video"):
            function(text)
    with pytest.raises(VideoError, match=r"absent\.mp4: cannot be read as a video \(No such file"):
        read_facts(tmp_path / "absent.mp4")


def test_truncated_video_gives_the_frames_that_are_there(tmp_path):
    whole = make_video(tmp_path / "whole.mkv", sound=None).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    assert 0 < len(list(read_frames(cut))) < 20
