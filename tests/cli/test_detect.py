"""`detr detect`: what it writes, how it fails, and that a stopped run becomes the run that was not stopped."""

import csv
import functools
import http.server
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from tiny_detector import save, tiny_detector
from typer.testing import CliRunner

from transformers_detr import cli
from transformers_detr.cli.detect import detect
from transformers_detr.inference.detector import Detector

ROUGH_SIZES = [(90, 60), (60, 90), (64, 64), (90, 61), (120, 60)]
SIDES = ("xmin", "ymin", "xmax", "ymax")
COUNT = 22
BROKEN = 6


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tiny_detector(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """COUNT images of different sizes, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        noise = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        noise.resize(ROUGH_SIZES[number % 5], Image.Resampling.BICUBIC).save(folder / f"{number + 100}.png")
    (folder / f"{BROKEN + 100}.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def finished(model, photos, tmp_path_factory):
    """The output folder of a run that nobody stopped, and what it said."""
    output = tmp_path_factory.mktemp("out")
    return output, run("detect", photos, "--model", model, "--output", output, "--batch-size", 3, "--threshold", 0)


def records_of(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[1:]]


def test_records_are_those_of_the_detector_in_input_order(finished, model, photos):
    output, _ = finished
    records = records_of(output)
    assert [record["uri"] for record in records] == [str(photos / f"{i + 100}.png") for i in range(COUNT)]
    assert [record["id"] for record in records] == list(range(100, 100 + COUNT))
    detector = Detector.from_pretrained(model, device="cpu")
    for number, record in enumerate(records):
        if number == BROKEN:
            assert set(record) == {"id", "uri", "error"}
            continue
        width, height = ROUGH_SIZES[number % 5]
        assert (record["width"], record["height"]) == (width, height)
        alone = detector(record["uri"], threshold=0)
        assert [found["class_id"] for found in record["detections"]] == alone.class_ids.tolist()
        for found, expected in zip(record["detections"], alone.to_dict(), strict=True):
            assert found["label"] == expected["label"]
            assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert {side: found[side] for side in SIDES} == pytest.approx(expected["box"], abs=1e-3)
        assert len(alone) == 12


def test_broken_image_is_reported_and_decides_the_status(finished):
    _, result = finished
    assert result.exit_code == 1
    assert "skipped" in result.stderr
    assert f"{BROKEN + 100}.png" in result.stderr
    assert f"images: {COUNT}, detections: " in result.stdout
    assert "failed: 1, " in result.stdout
    assert "images/s" in result.stdout
    assert "Traceback" not in result.output


def test_annotated_images_have_the_sizes_of_the_inputs(finished):
    output, _ = finished
    for number, record in enumerate(records_of(output)):
        if number != BROKEN:
            with Image.open(output / record["annotated"]) as drawn, Image.open(record["uri"]) as image:
                assert drawn.size == image.size
                assert drawn.tobytes() != image.tobytes()
    assert len(list((output / "annotated").iterdir())) == COUNT - 1


def test_coco_results_and_table_say_the_same(finished):
    output, _ = finished
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    coco = json.loads((output / "coco_results.json").read_text())
    flat = [(record, found) for record in records_of(output) for found in record.get("detections", ())]
    assert len(rows) == len(coco) == len(flat) > 0
    for row, entry, (record, found) in zip(rows, coco, flat, strict=True):
        box = {side: found[side] for side in SIDES}
        size = [box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]]
        assert entry["bbox"] == pytest.approx([box["xmin"], box["ymin"], *size])
        assert (entry["image_id"], entry["category_id"]) == (record["id"], found["class_id"])
        assert entry["score"] == found["score"] == float(row["score"])
        assert (row["uri"], row["label"]) == (record["uri"], found["label"])
        assert {side: float(row[side]) for side in box} == box
    assert {row["label"] for row in rows} - {"cat"}, "class names with other letters come through"


@pytest.mark.parametrize("at", [1, 4, 9])
def test_interrupted_run_resumes_to_the_same_files(finished, model, photos, tmp_path, monkeypatch, at):
    """Ctrl-C at different places, a torn line behind it."""
    complete, _ = finished
    batches = 0
    whole = Detector.predict

    def interrupted(self, *arguments):
        nonlocal batches
        batches += 1
        if batches == at:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    arguments = ("detect", photos, "--model", model, "--output", tmp_path, "--batch-size", 3, "--threshold", 0)
    with monkeypatch.context() as patched:
        patched.setattr(Detector, "predict", interrupted)
        stopped = run(*arguments)
    assert stopped.exit_code == 130
    done = len(records_of(tmp_path)) if (tmp_path / "predictions.jsonl").exists() else 0
    assert f"Stopped after {done} of {COUNT} images; resume with --resume" in stopped.stderr
    assert done < COUNT
    assert not (tmp_path / "coco_results.json").exists()
    with (tmp_path / "predictions.jsonl").open("a") as file:
        file.write('{"id": 100, "uri": "torn')
    assert run(*arguments, "--resume").exit_code == 1
    for name in ("predictions.jsonl", "coco_results.json", "predictions.csv"):
        assert (tmp_path / name).read_bytes() == (complete / name).read_bytes()
    for drawn in (complete / "annotated").iterdir():
        assert (tmp_path / "annotated" / drawn.name).read_bytes() == drawn.read_bytes()


def test_killed_run_resumes_to_the_same_file(finished, model, photos, tmp_path):
    complete, _ = finished
    arguments = [
        str(a) for a in ("detect", photos, "--model", model, "--output", tmp_path, "--batch-size", 3, "--threshold", 0)
    ]
    program = (
        "import sys, time\n"
        "from transformers_detr import cli; from transformers_detr.inference import detector\n"
        "whole = detector.Detector.predict\n"
        "detector.Detector.predict = lambda *a: (time.sleep(0.2), whole(*a))[1]\n"  # leave time to kill it midway
        "cli.app(sys.argv[1:])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)
    records = tmp_path / "predictions.jsonl"
    deadline = time.monotonic() + 120
    while not (records.exists() and records.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 5 <= records.read_bytes().count(b"\n") < COUNT
    assert run(*arguments, "--resume").exit_code == 1
    assert records.read_bytes() == (complete / "predictions.jsonl").read_bytes()


def test_resuming_a_finished_run_loads_no_model(finished, model, photos, monkeypatch):
    output, _ = finished
    monkeypatch.setattr(Detector, "from_pretrained", None)
    result = run(
        "detect", photos, "--model", model, "--output", output, "--batch-size", 3, "--threshold", 0, "--resume"
    )
    assert result.exit_code == 1
    assert f"images: {COUNT}, " in result.stdout


def test_used_output_folder_is_refused_unless_told(finished, model, photos, tmp_path):
    output, _ = finished
    again = run("detect", photos, "--model", model, "--output", output)
    assert again.exit_code == 2
    assert "already holds predictions" in again.stderr
    other = run("detect", photos, "--model", model, "--output", output, "--resume", "--threshold", 0.4)
    assert other.exit_code == 2
    assert "threshold was 0.0 and is now 0.4" in other.stderr
    photo = photos / "100.png"
    assert run("detect", photo, "--model", model, "--output", tmp_path).exit_code == 0
    assert run("detect", photos / "101.png", "--model", model, "--output", tmp_path, "--overwrite").exit_code == 0
    assert [record["uri"] for record in records_of(tmp_path)] == [str(photos / "101.png")]
    assert run("detect", photo, "--output", tmp_path, "--resume", "--overwrite").exit_code == 2


def test_one_image_gives_a_table_sorted_by_score(model, photos):
    detector = Detector.from_pretrained(model, device="cpu")
    threshold = float(np.median(detector(photos / "100.png", threshold=0).scores))
    result = run("detect", photos / "100.png", "--model", model, "--threshold", threshold)
    assert result.exit_code == 0
    found = detector(photos / "100.png", threshold=threshold)
    assert 0 < len(found) < 12
    rows = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == [found.labels[i] for i in np.argsort(-found.scores, kind="stable")]
    assert [float(row[2]) for row in rows] == pytest.approx(sorted(found.scores.tolist(), reverse=True), abs=5e-4)


def test_urls_are_fetched(model, photos, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=photos)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{address}/100.png?size=full", "http://127.0.0.1:1/refused.png"]
        result = run("detect", *urls, "--model", model, "--output", tmp_path)
        server.shutdown()
    assert result.exit_code == 1
    found, missing = records_of(tmp_path)
    assert found["uri"] == urls[0]
    assert (tmp_path / "annotated" / "100.png").exists()
    assert len(found["detections"]) == len(Detector.from_pretrained(model, device="cpu")(photos / "100.png"))
    assert missing["error"].startswith("cannot be fetched: ")


def test_one_broken_image(model, photos):
    result = run("detect", photos / f"{BROKEN + 100}.png", "--model", model)
    assert result.exit_code == 1
    assert f"skipped {photos / f'{BROKEN + 100}.png'}: " in result.stderr


def test_images_are_not_written_unasked(model, photos, tmp_path):
    result = run("detect", photos / "100.png", "--model", model, "--output", tmp_path, "--no-images")
    assert result.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "coco_results.json",
        "predictions.csv",
        "predictions.jsonl",
    ]
    assert "annotated" not in records_of(tmp_path)[0]


def test_own_annotated_images_are_not_inputs(model, photos, tmp_path):
    for number in (100, 101):
        (tmp_path / f"{number}.png").write_bytes((photos / f"{number}.png").read_bytes())
    arguments = ("detect", tmp_path, "--recursive", "--model", model, "--output", tmp_path)
    assert run(*arguments).exit_code == 0
    assert run(*arguments, "--resume").exit_code == 0
    assert len(records_of(tmp_path)) == 2


def test_nothing_above_the_threshold_gives_empty_files(model, photos, tmp_path):
    result = run("detect", photos / "100.png", "--model", model, "--output", tmp_path, "--threshold", 1)
    assert result.exit_code == 0
    assert json.loads((tmp_path / "coco_results.json").read_text()) == []
    assert records_of(tmp_path)[0]["detections"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (["PHOTOS"], "22 images need a folder for results"),
        (["PHOTO", "--threshold", "1.5"], "--threshold"),
        (["PHOTO", "--batch-size", "0"], "--batch-size"),
        (["PHOTO", "--dtype", "int3"], "int3"),
        (["PHOTO", "--device", "nonsense"], "'nonsense' cannot be used"),
        (["PHOTO", "--output", "PHOTO"], "is a file, not a folder"),
        ([], "Missing argument"),
    ],
)
def test_usage_errors_end_with_status_2(model, photos, arguments, said):
    places = {"PHOTOS": photos, "PHOTO": photos / "100.png"}
    result = run("detect", *(places.get(argument, argument) for argument in arguments), "--model", model)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_model_that_cannot_be_loaded_ends_with_one_message(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    result = run("detect", photos / "100.png", "--model", tmp_path / "missing")
    assert result.exit_code == 1
    assert "The model cannot be loaded" in result.stderr
    assert "no such folder" in result.stderr
    assert "Traceback" not in result.output


def test_failed_loading_leaves_nothing_that_blocks_the_next_run(model, photos, tmp_path):
    assert run("detect", photos / "100.png", "--model", "./missing", "--output", tmp_path).exit_code == 1
    assert run("detect", photos / "100.png", "--model", model, "--output", tmp_path).exit_code == 0


def test_defaults_are_those_of_the_detector():
    options = inspect.signature(detect).parameters
    assert options["threshold"].default == Detector.default_threshold
    assert options["batch_size"].default == inspect.signature(Detector.stream).parameters["batch_size"].default
    assert options["model"].default == Detector.default_model


def test_version_and_help():
    from transformers_detr import __version__

    assert run("--version").stdout == f"detr {__version__}\n"
    helped = run("detect", "--help").stdout
    assert all(option in helped for option in ("--model", "--resume", "PHOTO|FOLDER|GLOB|URL"))


def test_help_loads_nothing_heavy():
    program = (
        "import sys, transformers_detr.cli as cli\n"
        "try:\n    cli.app(['detect', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'timm', 'scipy') if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
