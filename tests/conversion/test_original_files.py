"""Downloads from a server on this machine: hash, interruption, continuation, refusal."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest

from original_files import ConversionError, download, fetch
from transformers_detr.hub.published_checkpoints import CHECKPOINTS

CONTENT = bytes(range(256)) * 5000
HEAD = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `CONTENT` with ranges; `/short` breaks off, `/whole` ignores ranges, anything else is absent."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if self.path not in ("/file", "/short", "/whole"):
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if self.path == "/whole":
            start = 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + 1000] if self.path == "/short" else CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.ranges = []
        running.address = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_download_is_checked_and_moved_to_its_place(server, tmp_path):
    download(f"{server.address}/file", tmp_path / "new" / "file.pth", HEAD)
    assert (tmp_path / "new" / "file.pth").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.pth"]


@pytest.mark.parametrize(("rest", "asked"), [("file", "bytes=1000-"), ("whole", "bytes=1000-")])
def test_interrupted_download_is_continued(rest, asked, server, tmp_path):
    path = tmp_path / "file.pth"
    with pytest.raises(ConversionError, match=rf"ended after 1000 of {len(CONTENT)} bytes.*run again"):
        download(f"{server.address}/short", path, HEAD)
    assert not path.exists()
    download(f"{server.address}/{rest}", path, HEAD)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, asked]


def test_download_that_was_complete_before_it_was_moved_is_taken(server, tmp_path):
    (tmp_path / "file.pth.part").write_bytes(CONTENT)
    download(f"{server.address}/file", tmp_path / "file.pth", HEAD)
    assert (tmp_path / "file.pth").read_bytes() == CONTENT


def test_other_content_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(ConversionError, match=r"differs from the published file .* begin with 00000000"):
        download(f"{server.address}/file", tmp_path / "file.pth", "00000000")
    assert list(tmp_path.iterdir()) == []


def test_failures_name_the_address_and_the_way_out(server, tmp_path):
    with pytest.raises(ConversionError, match=r"127\.0\.0\.1:\d+/absent: download failed .*404.*--checkpoint"):
        download(f"{server.address}/absent", tmp_path / "file.pth", HEAD)
    with pytest.raises(ConversionError, match=r"download failed .*--checkpoint"):
        download("http://127.0.0.1:9/file", tmp_path / "file.pth", HEAD)


def test_file_in_the_cache_is_used_if_its_content_is_right(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoint = CHECKPOINTS["detr-resnet-50"]
    path = tmp_path / "hub" / "checkpoints" / checkpoint.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    with pytest.raises(ConversionError, match="does not match the hash in the file name; delete the file"):
        fetch(checkpoint)
    monkeypatch.setattr(type(checkpoint), "sha256_head", HEAD)
    assert fetch(checkpoint) == path
