"""A stop under load: every request that was accepted is answered."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from tiny_detector import save, tiny_detector

from serving.conftest import png, running
from transformers_detr.serving.runner import ModelRunner


@dataclass
class Load:
    """Clients that ask without pause, on connections that they keep, until the service is gone."""

    port: int
    content: bytes
    answered: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: int = 0

    def client(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while True:
            try:
                if connection.sock is None:
                    connection.connect()
            except OSError:  # nobody listens any more: this was not accepted
                self.refused += 1
                return
            try:
                connection.request("POST", "/?threshold=0", self.content)
                response = connection.getresponse()
                response.read()
                self.answered.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return

    def run(self, clients, stop, after):
        with ThreadPoolExecutor(clients) as threads:
            futures = [threads.submit(self.client) for _ in range(clients)]
            while len(self.answered) < after:
                time.sleep(0.01)
            stop()
            for future in futures:
                future.result()


def test_a_stop_under_load_answers_what_was_accepted(detector, images):
    class Slow(ModelRunner):
        def run(self, requests):
            time.sleep(0.05)
            return super().run(requests)

    with running({"tiny": lambda: Slow(detector)}) as service:
        service.wait_until_ready()
        load = Load(service.port, png(images[0]))
        load.run(8, lambda: setattr(service.server, "should_exit", True), after=30)
        service.thread.join(timeout=30)
    assert not load.lost
    assert set(load.answered) == {200}
    assert load.refused == 8


def test_it_says_that_it_stops(detector):
    gate = threading.Event()

    class Gated(ModelRunner):
        def run(self, requests):
            gate.wait(20)
            return super().run(requests)

    with running({"tiny": lambda: Gated(detector)}) as service:
        service.wait_until_ready()
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        connection.request("GET", "/health")
        connection.getresponse().read()
        service.server.should_exit = True
        time.sleep(0.25)
        connection.request("GET", "/ready")
        response = connection.getresponse()
        assert (response.status, response.headers["Connection"]) == (503, "close")
        assert b"stopping" in response.read()
        connection.close()
        gate.set()


@pytest.mark.slow
def test_sigterm_under_load(tmp_path, images):
    """The command itself, with a model that cannot be loaded beside it; half a minute."""
    folder = save(tiny_detector(), tmp_path / "tiny")
    command = "import sys; from transformers_detr import cli; cli.app(sys.argv[1:])"
    arguments = ["serve", "--model", str(folder), "--model", str(tmp_path / "none"), "--preload", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    log = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr))
    reader.start()
    try:
        deadline = time.monotonic() + 120
        while not any("is ready" in line for line in log):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        (line,) = [line for line in log if "running on" in line]
        port = int(line.split("http://127.0.0.1:")[1].split()[0])
        load = Load(port, png(images[0]))
        load.run(16, lambda: process.send_signal(signal.SIGTERM), after=100)
        process.wait(timeout=60)
    finally:
        process.kill()
        reader.join()
        process.stderr.close()
    assert not load.lost
    assert set(load.answered) == {200}
    assert len(load.answered) >= 100
    assert any("none could not be loaded" in line for line in log)
    assert not any("Traceback" in line for line in log)
