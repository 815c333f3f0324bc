"""The engines: which devices they take, and what running a model leaves behind in the process."""

from __future__ import annotations

import subprocess
import sys

import onnxruntime
import pytest
import torch
from tiny_detr import padded_batch
from typer.testing import CliRunner

from transformers_detr.backends.load_exported import open_exported
from transformers_detr.cli import app
from transformers_detr.hub.loading import DeviceError

DROPPED_ELSEWHERE = """
import os, signal, sys, threading
from transformers_detr.backends.load_exported import open_exported

held = list(open_exported(sys.argv[1], "openvino", "fp32"))
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: None)
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print("alive")
"""


def test_a_signal_after_a_model_was_dropped_in_a_thread_does_no_harm(exported):
    """With an OpenVINO of its own for each model, the process ended here."""
    done = subprocess.run(
        [sys.executable, "-c", DROPPED_ELSEWHERE, str(exported)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


@pytest.mark.parametrize("device", ["AUTO", "auto:cpu", "HETERO:CPU"])
def test_ways_to_use_openvinos_devices_give_its_processors_answers(device, exported):
    """Left to itself, it computes in bfloat16 there where the processor can."""
    inputs = padded_batch([(64, 96), (50, 70)])
    expected, found = (open_exported(exported, "openvino", device=name)[0](*inputs) for name in ("cpu", device))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("backend", "device", "has"),
    [("onnx", "tpu", "has .*cpu"), ("onnx", "cpu:x", "has .*cpu"), ("openvino", "AUTO:NPU.7", "has .*CPU.*AUTO")],
)
def test_a_device_that_the_engine_lacks(backend, device, has, exported):
    with pytest.raises(DeviceError, match=f"device '{device}' cannot be used: .*{has}"):
        open_exported(exported, backend, device=device)


def test_a_provider_without_a_device_is_refused(exported, monkeypatch):
    """ONNX Runtime built for a GPU that is not there goes on with the CPU."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(DeviceError, match="finds no such device"),
    ):
        open_exported(exported, "onnx", device="cuda:0")


def test_the_command_takes_the_engines_names(saved, exported, tmp_path):
    image = str(saved[1] / "0.png")
    options = ["detect", image, "--model", str(exported), "--backend", "openvino", "--threshold", "0", "--device"]
    assert CliRunner().invoke(app, [*options, "auto"]).exit_code == 0
    result = CliRunner().invoke(app, [*options, "NPU.7"])
    assert result.exit_code == 2
    assert "device 'NPU.7' cannot be used: OpenVINO has" in result.output
    assert "--device" in result.output
