"""What is written aside: whole or not there, and nothing of it left behind."""

import pytest

from transformers_detr.atomic_io import atomic_file, atomic_files, atomic_folder


def test_a_folder_is_there_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "a" / "made") as partial:
        (partial / "one").write_text("1")
        assert not (tmp_path / "a" / "made").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["made"]
    assert (tmp_path / "a" / "made" / "one").read_text() == "1"
    with pytest.raises(FileExistsError, match="made exists already"), atomic_folder(tmp_path / "a" / "made"):
        pass


def test_files_come_into_a_folder_that_has_others(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "old").write_text("old")
    with atomic_files(tmp_path) as partial:
        (partial / "old").write_text("new")
        (partial / "more").write_text("more")
        assert (tmp_path / "old").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "kept": "kept",
        "old": "new",
        "more": "more",
    }


@pytest.mark.parametrize("make", [atomic_folder, atomic_files])
def test_an_interruption_leaves_nothing(tmp_path, make):
    def interrupted():
        with make(tmp_path / "made") as partial:
            (partial / "half").write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.rglob("*half*"))


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "made" / "page.html"
    with atomic_file(path) as aside:
        aside.write_text("one")
        assert not path.exists()

    def interrupted():
        with atomic_file(path) as aside:
            aside.write_text("tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
    assert path.read_text() == "one"


def test_what_a_killed_run_left_is_not_taken_over(tmp_path):
    left = tmp_path / ".partial"
    left.mkdir()
    (left / "half").write_text("ha")
    with atomic_files(tmp_path) as partial:
        (partial / "whole").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
