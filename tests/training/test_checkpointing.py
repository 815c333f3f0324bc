from __future__ import annotations

import pytest

from transformers_detr.training.checkpointing import STAGING, atomic_checkpoint, remove_old_checkpoints


def test_a_folder_appears_when_it_is_complete(tmp_path):
    folder = tmp_path / "checkpoint-1"
    with atomic_checkpoint(folder) as aside:
        (aside / "a").write_text("1")
        assert not folder.exists()
    assert (folder / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_failure_leaves_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "a").write_text("old")

    def fail():
        with atomic_checkpoint(folder) as aside:
            (aside / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "a").read_text() == "old"
    with atomic_checkpoint(folder) as aside:
        assert not list(aside.iterdir()), "what was left half-written is gone"
        (aside / "b").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (None, None, [1, 2, 9, 10]),
        (1, None, [10]),
        (2, None, [9, 10]),
        (2, 1, [1, 10]),
        (1, 1, [1, 10]),
        (3, 2, [2, 9, 10]),
        (2, 10, [9, 10]),
    ],
)
def test_the_best_and_the_newest_stay(tmp_path, keep, best, left):
    for step in (1, 2, 9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
    remove_old_checkpoints(tmp_path, keep, best and str(tmp_path / f"checkpoint-{best}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"checkpoint-{step}" for step in left)
