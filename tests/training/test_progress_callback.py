from __future__ import annotations

from types import SimpleNamespace

from transformers_detr.training.progress_callback import ProgressBar


def test_the_bar_shows_losses_and_ap(capsys):
    progress = ProgressBar()
    state = SimpleNamespace(is_world_process_zero=True, max_steps=4, global_step=0)
    progress.on_train_begin(None, state, None)
    state.global_step = 2
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={"loss": 3.14159, "loss_giou": 0.5, "epoch": 1.0})
    progress.on_log(None, state, None, logs={"eval_AP": 43.21})
    assert progress.bar.n == 2
    progress.on_train_end(None, state, None)
    shown = capsys.readouterr().err
    assert "loss=3.14, GIoU=0.5, AP=43.2" in shown
    assert "epoch" not in shown
    assert "2/4" in shown


def test_only_the_first_process_shows_a_bar(capsys):
    progress = ProgressBar()
    state = SimpleNamespace(is_world_process_zero=False, max_steps=4, global_step=1)
    progress.on_train_begin(None, state, None)
    progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={"loss": 1.0})
    progress.on_train_end(None, state, None)
    assert capsys.readouterr().err == ""
