"""The output folder of a run: refused, begun, cut off, gone on with."""

import json

import pytest
from rich.console import Console
from typer import Exit

from transformers_detr.cli.progress import show_progress
from transformers_detr.inference.run_folder import RunFolder, RunFolderError

SETTINGS = {"model": "m", "threshold": 0.7}
LOCATIONS = ["a.jpg", "b.jpg", "ç.jpg"]


def open_run(folder, settings=SETTINGS, locations=LOCATIONS, resume=False, overwrite=False):
    return RunFolder(folder, settings, locations, resume=resume, overwrite=overwrite)


def test_records_come_back_and_are_in_the_file_at_once(tmp_path):
    run = open_run(tmp_path / "new" / "out")
    records = [{"file": location, "detections": [{"label": "кот"}]} for location in LOCATIONS]
    for number, record in enumerate(records):
        run.append(record)
        assert run.records_file.read_bytes().count(b"\n") == run.done == number + 1
    assert list(run.records()) == records
    assert json.loads((tmp_path / "new" / "out" / "run.json").read_text()) == SETTINGS


def test_records_are_never_overwritten_unasked(tmp_path):
    open_run(tmp_path).append({"file": "a.jpg"})
    with pytest.raises(RunFolderError, match=r"already holds predictions; .*--resume.*--overwrite"):
        open_run(tmp_path)
    assert open_run(tmp_path, resume=True).done == 1
    assert open_run(tmp_path, overwrite=True, settings={"model": "other"}).done == 0
    assert open_run(tmp_path, settings={"model": "another"}).done == 0, "a run without records is no obstacle"


@pytest.mark.parametrize("rest", ['{"file": "b.j', '{"file": "b.jpg"}', "\x00\x00"])
def test_line_that_was_cut_off_is_dropped(tmp_path, rest):
    run = open_run(tmp_path)
    run.append({"file": "a.jpg"})
    whole = run.records_file.read_bytes()
    with run.records_file.open("a") as file:
        file.write(rest)
    resumed = open_run(tmp_path, resume=True)
    assert resumed.done == 1
    assert resumed.records_file.read_bytes() == whole


def test_other_settings_or_inputs_are_refused_by_name(tmp_path):
    open_run(tmp_path).append({"file": "a.jpg"})
    with pytest.raises(RunFolderError, match=r"threshold was 0.7 and is now 0.5$"):
        open_run(tmp_path, settings={"model": "m", "threshold": 0.5}, resume=True)
    with pytest.raises(RunFolderError, match=r"line 1 is about a.jpg, but image 1 of this run is b.jpg"):
        open_run(tmp_path, locations=LOCATIONS[1:], resume=True)
    open_run(tmp_path, resume=True).append({"file": "b.jpg"})
    with pytest.raises(RunFolderError, match="image 2 of this run is None"):
        open_run(tmp_path, locations=LOCATIONS[:1], resume=True)


@pytest.mark.parametrize("line", ["not json\n", '{"no": "file"}\n', "[]\n"])
def test_damaged_records_are_refused(tmp_path, line):
    run = open_run(tmp_path)
    run.records_file.write_text(line)
    with pytest.raises(RunFolderError, match="is damaged"):
        open_run(tmp_path, resume=True)


def test_missing_settings_are_refused(tmp_path):
    open_run(tmp_path).append({"file": "a.jpg"})
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunFolderError, match=r"run.json cannot be read.*--overwrite"):
        open_run(tmp_path, resume=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(RunFolderError, match="is a file"):
        open_run(tmp_path / "out")


def test_file_written_aside_is_whole_or_absent(tmp_path):
    run = open_run(tmp_path)
    run.write_aside("table.csv", lambda file: file.write("old"))

    def fail(file):
        file.write("ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run.write_aside("table.csv", fail)
    assert (tmp_path / "table.csv").read_text() == "old"


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
            run.append({"file": "a.jpg"})
            progress({"file": "a.jpg"})
            raise error

    with (tmp_path / "log").open("w") as log, pytest.raises(Exit) as caught:
        work(Console(width=200, file=log))
    assert caught.value.exit_code == status
    assert said in (tmp_path / "log").read_text()
    assert [record["file"] for record in open_run(tmp_path, resume=True).records()] == ["a.jpg"]


def test_other_errors_are_not_hidden(tmp_path):
    with pytest.raises(RuntimeError, match="a defect"), show_progress(open_run(tmp_path), 3, Console(quiet=True)):
        raise RuntimeError("a defect")
