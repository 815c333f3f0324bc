"""`detr detect clip.mp4` as its user runs it: lines, the annotated copy, and going on after a sudden end."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from made_video import frame_arrays, make_video, sound_of, times_of
from tiny_detector import save, tiny_detector
from typer.testing import CliRunner

from transformers_detr.cli import app
from transformers_detr.inference import video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    save(tiny_detector(), folder / "model")
    make_video(folder / "clip.mp4")
    return folder


def run(folder, output, *arguments, clip="clip.mp4"):
    command = ["detect", str(folder / clip), "--model", str(folder / "model"), "-t", "0.5", "-b", "2"]
    return CliRunner().invoke(app, [*command, "-o", str(output), *arguments])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


@pytest.fixture(scope="module")
def whole(folder):
    result = run(folder, folder / "whole")
    assert result.exit_code == 0, result.output
    assert "frames: 20, detections: " in result.output
    return folder / "whole"


def test_a_line_for_each_frame(folder, whole):
    records = lines(whole / "predictions.jsonl")
    assert [record["frame"] for record in records] == list(range(20))
    assert [record["time"] for record in records] == pytest.approx(times_of(folder / "clip.mp4"))
    first = next(video.read_frames(folder / "clip.mp4")).image
    found = tiny_detector()(first, threshold=0.5)
    assert len(found) == len(records[0]["detections"]) > 0
    assert records[0]["detections"][0]["score"] == pytest.approx(float(found.scores[0]), abs=1e-4)


def test_table(whole):
    rows = list(csv.DictReader((whole / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == sum(len(record["detections"]) for record in lines(whole / "predictions.jsonl"))
    assert list(rows[0])[:4] == ["uri", "frame", "time", "label"]


def test_copy_has_boxes_the_timing_and_the_sound(folder, whole):
    copy, clip = whole / "annotated" / "clip.mp4", folder / "clip.mp4"
    assert times_of(copy) == pytest.approx(times_of(clip))
    assert sound_of(copy) == sound_of(clip)
    changed = np.abs(frame_arrays(copy).astype(int) - frame_arrays(clip)).max(-1) > 60
    assert changed.any(axis=(1, 2)).all()


def test_going_on_gives_the_same_as_running_through(folder, whole, tmp_path, monkeypatch):
    read, seen = video.read_frames, []

    def interrupted(*arguments):
        for frame in read(*arguments):
            seen.append(frame.number)
            if len(seen) == 14:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(video, "read_frames", interrupted)
    stopped = run(folder, tmp_path)
    assert stopped.exit_code == 130
    assert "of 20 frames" in stopped.output
    done = len(lines(tmp_path / "predictions.jsonl"))
    assert 0 < done < 14
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"id": 3, "uri": "cut o')
    monkeypatch.undo()
    assert run(folder, tmp_path).exit_code == 2
    resumed = run(folder, tmp_path, "--resume")
    assert resumed.exit_code == 0, resumed.output
    for name in ("predictions.jsonl", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert times_of(tmp_path / "annotated" / "clip.mp4") == times_of(whole / "annotated" / "clip.mp4")


def test_stride_holds_the_boxes(folder, tmp_path):
    assert run(folder, tmp_path, "--stride", "7").exit_code == 0
    records = lines(tmp_path / "predictions.jsonl")
    assert [record["frame"] for record in records] == [0, 7, 14]
    assert len(times_of(tmp_path / "annotated" / "clip.mp4")) == 20


def test_tracks(folder, tmp_path):
    assert run(folder, tmp_path, "--track", "--no-images").exit_code == 0
    tracks = lines(tmp_path / "tracks.jsonl")
    assert not (tmp_path / "annotated").exists()
    assert {entry["track"] for entry in tracks[5]["detections"]} - {None}
    bare = [[{k: v for k, v in entry.items() if k != "track"} for entry in record["detections"]] for record in tracks]
    assert bare == [record["detections"] for record in lines(tmp_path / "predictions.jsonl")]
    assert "track" in (tmp_path / "predictions.csv").read_text().splitlines()[0].split(",")


def test_several_videos_get_folders_of_their_own(folder, tmp_path):
    make_video(tmp_path / "other.mkv", seconds=1, sound=None)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    more = [str(tmp_path / "other.mkv"), str(tmp_path / "broken.mp4")]
    result = run(folder, tmp_path / "out", *more, "--no-images")
    assert result.exit_code == 1
    assert "broken.mp4: cannot be read as a video" in result.output
    assert len(lines(tmp_path / "out" / "clip" / "predictions.jsonl")) == 20
    assert len(lines(tmp_path / "out" / "other" / "predictions.jsonl")) == 10


def test_mistakes_are_named(folder, tmp_path):
    command = ["detect", str(folder / "clip.mp4"), "--model", str(folder / "model")]
    (tmp_path / "photo.png").write_bytes(b"")
    for more, message in (
        ([], "a video needs a folder for results"),
        ([str(tmp_path / "photo.png"), "-o", str(tmp_path)], "separate runs, got"),
        ([str(folder / "absent.mp4"), "-o", str(tmp_path)], "absent.mp4: no such file"),
        (["--resume", "--overwrite", "-o", str(tmp_path)], "exclude each other"),
    ):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 2
        assert message in result.output
    result = CliRunner().invoke(app, ["detect", str(tmp_path / "photo.png"), "--stride", "2"])
    assert result.exit_code == 2
    assert "are for videos" in result.output


@pytest.mark.slow  # a quarter of a minute
def test_killed_midway_and_resumed(folder, tmp_path):
    clip = make_video(tmp_path / "long.mp4", seconds=10, rate=25)
    command = [
        sys.executable,
        "-c",
        "from transformers_detr.cli import main; main()",
        "detect",
        str(clip),
        "-o",
        str(tmp_path / "out"),
    ]
    command += ["--model", str(folder / "model"), "-t", "0.5"]
    process = subprocess.Popen(command)
    records = tmp_path / "out" / "predictions.jsonl"
    while not records.exists() or records.read_bytes().count(b"\n") < 40:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 40 <= records.read_bytes().count(b"\n") < 250
    assert not (tmp_path / "out" / "annotated").exists()
    subprocess.run([*command, "--resume"], check=True)
    copy = tmp_path / "out" / "annotated" / "long.mp4"
    assert len(lines(records)) == len(times_of(copy)) == 250
    assert times_of(copy) == pytest.approx(times_of(clip), abs=1e-3)
    assert sound_of(copy) == sound_of(clip)
