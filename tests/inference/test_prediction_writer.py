"""The predictions file of a folder: refused, begun, cut off, resumed, joined."""

import hashlib
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_detector import tiny_detector
from typer import Exit

from transformers_detr.backends.exported_model import Engine, ExportedModel
from transformers_detr.cli.progress import show_progress
from transformers_detr.inference.prediction_writer import PredictionWriter
from transformers_detr.inference.predictions import (
    PredictionsError,
    model_digest,
    read_header,
    read_records,
    to_detections,
    to_entries,
)

SETTINGS = {"model": "m", "threshold": 0.7}
URIS = ["a.jpg", "b.jpg", "ç.jpg"]


def open_run(folder, settings=SETTINGS, uris=URIS, resume=False, overwrite=False):
    return PredictionWriter(folder, settings, uris, resume=resume, overwrite=overwrite)


def record(number):
    return {"id": number, "uri": URIS[number - 1], "detections": [{"label": "кот"}]}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_records_come_back_and_are_in_the_file_at_once(tmp_path):
    run = open_run(tmp_path / "new" / "out")
    records = [record(number) for number in (1, 2, 3)]
    for number, one in enumerate(records):
        run.append(one)
        assert run.path.read_bytes().count(b"\n") == len(run.done) + 1 == number + 2
    assert list(run.records()) == records
    settings = {"threshold": 0.7}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    assert lines_of(run.folder)[0] == {
        "model": "m",
        "model_digest": None,
        "class_names": [],
        "settings": settings,
        "settings_digest": digest,
    }


def test_records_are_never_overwritten_unasked(tmp_path):
    open_run(tmp_path).append(record(1))
    with pytest.raises(PredictionsError, match=r"already holds predictions; .*--resume.*--overwrite"):
        open_run(tmp_path)
    assert open_run(tmp_path, resume=True).done == {1}
    assert open_run(tmp_path, overwrite=True, settings={"model": "other"}).done == set()
    open_run(tmp_path).append()
    assert len(lines_of(tmp_path)) == 1
    assert open_run(tmp_path, settings={"model": "another"}).done == set(), "a header alone is no obstacle"


@pytest.mark.parametrize("rest", ['{"id": 2, "uri": "b.j', '{"id": 2, "uri": "b.jpg"}', "\x00\x00"])
def test_line_that_was_cut_off_is_dropped(tmp_path, rest):
    run = open_run(tmp_path)
    run.append(record(1))
    whole = run.path.read_bytes()
    with run.path.open("a") as file:
        file.write(rest)
    resumed = open_run(tmp_path, resume=True)
    assert resumed.done == {1}
    assert resumed.path.read_bytes() == whole


def test_other_settings_or_inputs_are_refused_by_name(tmp_path):
    open_run(tmp_path).append(record(1))
    with pytest.raises(PredictionsError, match=r"threshold was 0.7 and is now 0.5$"):
        open_run(tmp_path, settings={"model": "m", "threshold": 0.5}, resume=True)
    with pytest.raises(PredictionsError, match=r"model was 'm' and is now 'n'"):
        open_run(tmp_path, settings={"model": "n", "threshold": 0.7}, resume=True)
    with pytest.raises(PredictionsError, match=r"record 1 is about a.jpg, but image 1 of this run is b.jpg"):
        open_run(tmp_path, uris=URIS[1:], resume=True)
    open_run(tmp_path, resume=True).append(record(2))
    with pytest.raises(PredictionsError, match="image 2 of this run is None"):
        open_run(tmp_path, uris=URIS[:1], resume=True)


def test_other_weights_are_refused(tmp_path):
    model = tiny_detector().model
    run = open_run(tmp_path)
    run.set_model(model)
    run.append(record(1))
    header = read_header(run.path)
    assert header.model_digest == model_digest(model)
    assert header.class_names == list(model.config.id2label.values())
    open_run(tmp_path, resume=True).set_model(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    with pytest.raises(PredictionsError, match="started with other weights"):
        open_run(tmp_path, resume=True).set_model(model)


def test_the_digest_depends_on_weights_and_configuration(tmp_path):
    model = tiny_detector().model
    digest = model_digest(model)
    model.save_pretrained(tmp_path)
    assert model_digest(type(model).from_pretrained(tmp_path)) == digest
    assert model_digest(type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)) != digest
    model.config.id2label = {**model.config.id2label, 0: "renamed"}
    assert model_digest(model) != digest


def test_the_digest_of_an_exported_model_depends_on_its_files(tmp_path):
    config, graph, weights = tiny_detector().model.config, tmp_path / "model.xml", tmp_path / "model.bin"
    graph.write_bytes(b"graph")
    digests = []
    for content in (b"weights", b"others"):
        weights.write_bytes(content)
        digests.append(model_digest(ExportedModel(config, Engine(lambda *_: {}), [graph, weights])))
    assert digests[0] != digests[1]
    weights.write_bytes(b"weights")
    assert model_digest(ExportedModel(config, Engine(lambda *_: {}), [graph, weights])) == digests[0]


@pytest.mark.parametrize("line", ["not json\n", '{"no": "id"}\n', "[]\n", '{"id": 1, "uri": "a.jpg"}\n'])
def test_damaged_records_are_refused(tmp_path, line):
    run = open_run(tmp_path)
    run.append(record(1))
    with run.path.open("a") as file:
        file.write(line)
    with pytest.raises(PredictionsError, match=r"damaged: .*predictions.jsonl, line 3: .*--overwrite"):
        open_run(tmp_path, resume=True)


def test_a_file_without_header_is_refused(tmp_path):
    (tmp_path / "predictions.jsonl").write_text(json.dumps(record(1)) + "\n" + json.dumps(record(2)) + "\n")
    with pytest.raises(PredictionsError, match=r"no header; start over with --overwrite"):
        open_run(tmp_path, resume=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(PredictionsError, match="is a file"):
        open_run(tmp_path / "out")


def test_other_files_are_whole_or_absent(tmp_path):
    run = open_run(tmp_path)
    run.write_file("table.csv", lambda file: file.write("old"))

    def fail(file):
        file.write("ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run.write_file("table.csv", fail)
    assert (tmp_path / "table.csv").read_text() == "old"


def test_records_in_any_order_are_joined_in_the_order_of_the_ids(tmp_path):
    run = open_run(tmp_path, uris=None)
    run.append(record(2), record(3))
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:-20])  # within the second record
    resumed = open_run(tmp_path, uris=None, resume=True)
    assert resumed.done == {2}
    resumed.append(record(2), record(3), record(1))
    with pytest.raises(PredictionsError, match="1 images have no record, such as 4"):
        resumed.finish([1, 2, 3, 4])
    resumed.finish([1, 2, 3])
    assert lines_of(tmp_path)[1:] == [record(1), record(2), record(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    before = resumed.path.read_bytes()
    again = open_run(tmp_path, uris=None, resume=True)
    again.finish([1, 2, 3])
    assert again.path.read_bytes() == before


def test_a_run_cut_off_in_its_header_starts_over(tmp_path):
    (tmp_path / "predictions.part0.jsonl").write_text('{"model": "m", "sett')
    run = open_run(tmp_path, uris=None, resume=True)
    run.append(record(1))
    run.finish([1])
    assert lines_of(tmp_path)[1:] == [record(1)]


def test_detections_come_back_bit_for_bit(tmp_path):
    found = tiny_detector()(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8), threshold=0)
    height, width = found.image_size
    run = open_run(tmp_path)
    run.append({"id": 1, "uri": "a.jpg", "height": height, "width": width, "detections": to_entries(found)})
    back = to_detections(next(read_records(run.path)))
    assert len(back) == len(found) > 0
    assert back.boxes_xyxy_px.tobytes() == found.boxes_xyxy_px.tobytes()
    assert back.scores.tobytes() == found.scores.tobytes()
    assert (back.labels, back.class_ids.tolist()) == (found.labels, found.class_ids.tolist())
    assert back.image_size == found.image_size


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Stopped after 1 of 3 images; resume with --resume"),
        (OSError(28, "No space left on device"), 1, "No space left on device; resume with --resume"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "CUDA out of memory"),
    ],
)
def test_a_stopped_run_says_how_to_resume(tmp_path, error, status, said):
    def work(console):
        run = open_run(tmp_path)
        with show_progress(run, 3, console) as (progress, _):
            run.append(record(1))
            progress(record(1))
            raise error

    with (tmp_path / "log").open("w") as log, pytest.raises(Exit) as caught:
        work(Console(width=200, file=log))
    assert caught.value.exit_code == status
    assert said in (tmp_path / "log").read_text()
    assert [one["uri"] for one in open_run(tmp_path, resume=True).records()] == ["a.jpg"]


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="a defect"), show_progress(open_run(tmp_path), 3, Console(quiet=True)):
        raise RuntimeError("a defect")
