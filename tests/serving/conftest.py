"""Services that listen on a free port of this machine, in a thread of the test's process."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sure_segmenter import sure_segmenter
from tiny_detector import tiny_detector

from transformers_detr.serving.app import create_app
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.runner import ModelRunner
from transformers_detr.serving.server import make_server

SIZES = [(90, 60), (60, 90), (64, 64), (90, 61), (120, 60), (200, 50), (64, 48), (48, 64), (100, 99), (33, 77)]


@dataclass
class Response:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RunningService:
    """A service in a thread."""

    url: str
    port: int
    server: Any
    thread: threading.Thread

    @property
    def models(self):
        return self.server.config.app.state.service.models

    def request(self, path="/", body=None, **headers) -> Response:
        names = {name.replace("_", "-").title(): value for name, value in headers.items()}
        names.setdefault("Content-Type", "application/octet-stream")
        request = urllib.request.Request(self.url + path, data=body, headers=names)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Response(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Response(error.code, error.headers, error.read())

    def request_json(self, document, path="/") -> Response:
        return self.request(path, json.dumps(document).encode(), content_type="application/json")

    def wait_until_ready(self):
        deadline = time.monotonic() + 60
        while self.request("/ready").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self):
        self.server.should_exit = True
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


@contextmanager
def running(loaders, limits=None, **options):
    limits = limits or Limits()
    server = make_server(create_app(loaders, limits, **options), "127.0.0.1", 0, limits, log_config=None)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield RunningService(f"http://127.0.0.1:{port}", port, server, thread)
    finally:
        server.should_exit = True
        thread.join(timeout=60)


def png(image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def images():
    """Images of ten sizes."""
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in SIZES]
    return [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(noise, SIZES, strict=True)]


@pytest.fixture(scope="session")
def detector():
    return tiny_detector()


@pytest.fixture(scope="session")
def segmenter():
    return sure_segmenter()


@pytest.fixture(scope="session")
def loaders(detector, segmenter):
    return {"tiny": lambda: ModelRunner(detector), "org/parts": lambda: ModelRunner(segmenter)}


@pytest.fixture(scope="module")
def service(loaders):
    with running(loaders, preload=True) as service:
        service.wait_until_ready()
        yield service
