"""What running an exported model leaves behind in the process."""

from __future__ import annotations

import subprocess
import sys

DROPPED_ELSEWHERE = """
import os, signal, sys, threading
from transformers_detr.backends.opening import open_exported

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
