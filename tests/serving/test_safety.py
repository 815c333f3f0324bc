"""Hostile input: refused for a reason, without an error of the service, and it still responses afterwards."""

import base64
import contextlib
import http.client
import json
import logging
import os
import random
import re
import socket
import struct
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from starlette.requests import Request
from typer.testing import CliRunner

from serving.conftest import png, running
from transformers_detr import cli
from transformers_detr.serving import auth, server
from transformers_detr.serving.app import create_app
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.request_body import parse_json

REFUSED = {400, 408, 413, 415, 422}


@pytest.fixture(scope="module")
def small(loaders):
    """A service with little patience."""
    limits = Limits(image_bytes=100_000, pixels=50_000, body_seconds=0.6)
    with running(loaders, limits, preload=True) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture(autouse=True)
def still_answers(request, small, images):
    yield
    assert small.request("/", png(images[0])).status == 200


def huge_png(width=30_000, height=30_000):
    """A image of 900 million pixels in a few hundred bytes; it cannot be decoded, and must not be."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def raw(service, *parts, pause=0.0, seconds=10):
    """Send parts of a request as they are; returns the status, or None if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        for part in parts:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
            time.sleep(pause)
        response = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                response += chunk
                if b"}" in response:
                    break
    return int(response.split()[1]) if response else None


def head(length=None, path="/", kind="application/octet-stream", extra=""):
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{size}\r\n{extra}\r\n".encode()


def test_bombs_are_refused_before_decoding(small, monkeypatch):
    Image.init()  # some of Pillow's plugins load an image when they are imported
    monkeypatch.setattr(Image.Image, "load", None)
    for size in [(30_000, 30_000), (10_000, 12_000), (300, 200)]:
        response = small.request("/", huge_png(*size))
        assert response.status == 413
        assert response.json == {"error": "the image has more than 50000 pixels"}


def test_long_bodies_are_refused_while_they_are_read(small):
    assert small.request("/", b"x" * 100_001).json == {"error": "the request body is longer than 100000 bytes"}
    assert small.request("/", b"x" * 3_000_000).status == 413, "the client got to read it"
    chunk = b"%x\r\n" % 50_000 + b"x" * 50_000 + b"\r\n"
    assert raw(small, head(), *[chunk] * 40, b"0\r\n\r\n") == 413
    document = json.dumps({"inputs": "x" * 140_000})
    assert small.request("/", document.encode(), content_type="application/json").status == 413


def test_an_invitation_is_not_given_to_a_body_that_is_too_long(small):
    """With Expect: 100-continue the response comes before the body."""
    assert raw(small, head(10**12, extra="Expect: 100-continue\r\n")) == 413


@pytest.mark.parametrize("length", [0, 1, 10, 40, 200, -30])
def test_truncated_images(small, images, length):
    content = png(images[0])[:length]
    assert small.request("/", content).status in REFUSED
    text = base64.b64encode(content).decode()
    assert small.request_json({"inputs": text}).status in REFUSED


def test_wrong_content_types(small, images):
    content = png(images[0])
    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "video/mp4",
        "application/xml",
        "🙂".encode().decode("latin-1"),
    ):
        assert small.request("/", content, content_type=kind).status == 415
    assert small.request("/", content, content_type="application/json").status == 422
    assert small.request("/", content, content_encoding="gzip").status == 415
    assert small.request("/", b'{"inputs": ""}', content_type="image/png").status == 415
    for kind in ("image/jpeg", "IMAGE/PNG", "application/x-www-form-urlencoded"):
        assert small.request("/", content, content_type=kind).status == 200, "the image's own head decides"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 50_000,
        b'{"inputs":' * 9_000,
        b'{"a":1,' * 20_000,
        b"[" + b"{}," * 40_000,
        b'"' * 99_999,
        b'"\\' * 49_999,
        b'{"inputs": "' + b"A" * 90_000,
        b'{"inputs": "AAAA", "parameters": ' + b"9" * 50_000 + b"}",
        b'{"inputs": "AAAA", "parameters": {"threshold": NaN}}',
        b'{"inputs": "AAAA", "parameters": {"threshold": 1e999}}',
        b'{"inputs": 5}',
        b'{"inputs": null}',
        b'{"inputs": "\\ud800"}',
        b'{"inputs": "not base64!"}',
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'{"inputs": "AAAA", "inputs": "BBBB"}',
        b'{"inputs": "AAAA", "more": 1}',
    ],
    ids=range(19),
)
def test_hostile_json(small, body):
    start = time.monotonic()
    response = small.request("/", body, content_type="application/json")
    assert response.status in REFUSED
    assert response.json["error"]
    assert time.monotonic() - start < 5


def test_the_time_to_look_at_json_grows_with_its_length_only():
    for body in (b'"' * 2_000_001, b'"\\"' * 700_000, b'"' + b"\\" * 2_000_001, b'{"inputs": "' + b"A" * 20_000_000):
        start = time.monotonic()
        with pytest.raises(ServiceError):
            parse_json(body)
        assert time.monotonic() - start < 2


def test_slow_bodies_time_out(small):
    start = time.monotonic()
    assert raw(small, head(1000), *[b"x"] * 12, pause=0.1) == 408
    assert time.monotonic() - start < 8


def test_slow_heads_are_cut_off(small, monkeypatch):
    monkeypatch.setattr(server, "_HEADER_SECONDS", 0.5)
    start = time.monotonic()
    assert raw(small, b"POST / HT", *[b"X"] * 8, pause=0.1) is None
    content = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(small, content, b"GET /hea", *[b"l"] * 8, pause=0.1) == 200, "the second head on a connection too"
    assert time.monotonic() - start < 8


@pytest.mark.parametrize(
    "request_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /health HTTQ/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\n",
    ],
)  # fmt: skip
def test_broken_http(small, request_):
    assert raw(small, request_) in {400, 408, None}


def test_urls_are_not_fetched_unless_that_is_switched_on(small):
    for url in ("http://127.0.0.1/", "https://example.com/cat.jpg"):
        response = small.request_json({"inputs": url})
        assert response.status == 403
    assert small.request_json({"inputs": "file:///etc/passwd"}).status == 400


def test_odd_addresses(small):
    for path in (
        "/models/",
        "/models/%2e%2e/%2e%2e/etc/passwd",
        "/models/a%00b",
        "/page/../application.py",
        "/page/%2e%2e/limits.py",
        "/nothing",
    ):
        response = small.request(path, b"x")
        assert response.status in (404, 405), path
        assert response.json["error"]
        connection = http.client.HTTPConnection("127.0.0.1", small.port)
        connection.request("GET", path)
        assert connection.getresponse().status in (404, 405)
        connection.close()


def test_the_token_guards_all_but_the_page_and_the_signs_of_life(loaders, images, tmp_path):
    from transformers_detr.serving.model_registry import model_loaders

    content = png(images[0])
    with running({**loaders, **model_loaders([f"bad={tmp_path}"])}, preload=True, token="s3cret") as service:
        service.wait_until_ready()
        right = {"authorization": "Bearer s3cret"}
        for headers in (
            {},
            {"authorization": "Bearer s3cre"},
            {"authorization": "Basic s3cret"},
            {"authorization": "Bearer é"},
        ):
            for path, body in [
                ("/", content),
                ("/models/tiny", content),
                ("/models/tiny/attention", content),
                ("/models", None),
                ("/metrics", None),
            ]:
                response = service.request(path, body, **headers)
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert service.request("/", content, **right).status == 200
        assert service.request("/models", **right).status == 200
        assert (
            service.request("/").status == service.request("/health").status == service.request("/ready").status == 200
        )
        while "loading" in {entry["state"] for entry in service.request("/ready").json["models"]}:
            time.sleep(0.05)
        assert not any("reason" in entry for entry in service.request("/ready").json["models"])
        assert any("reason" in entry for entry in service.request("/ready", **right).json["models"])


@pytest.mark.parametrize("given", ["s3cret", "s", "", "t3cret", "s3cret" * 1000])
def test_tokens_are_compared_in_constant_time(monkeypatch, given):
    """Whole against whole, by the function that is made for it, however much of one is right."""
    compared = []

    def compare_digest(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(auth, "hmac", SimpleNamespace(compare_digest=compare_digest))
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {given}".encode())]})
    assert auth.has_valid_token(request, "s3cret") is (given == "s3cret")
    assert compared == [(given.encode(), b"s3cret")]


def test_nothing_of_a_request_is_logged(small, images, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "s0me-0ne"
    small.request(f"/?threshold=0.123&{secret}=1", png(images[0]), user_agent=secret, authorization=f"Bearer {secret}")
    small.request_json({"inputs": secret, "parameters": {"threshold": 0.123}})
    small.request(f"/models/{secret}", secret.encode())
    ours = [record for record in caplog.records if record.name.startswith(("transformers_detr", "uvicorn"))]
    assert any("bytes" in record.getMessage() for record in ours)
    for record in ours:
        assert secret not in record.getMessage()
        assert "0.123" not in record.getMessage()
        assert "127.0.0.1" not in record.getMessage()


@pytest.mark.slow
def test_random_bytes(small):
    """500 times 10,000 bytes, alone and behind the heads of images; a minute."""
    random_ = random.Random(0)
    heads = [
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"\0\0\0 ftypavif",
    ]
    for number in range(500):
        body = heads[number % len(heads)] + random_.randbytes(10_000)
        kind = "application/json" if number % 5 == 4 else "image/jpeg"
        response = small.request("/", body, content_type=kind)
        assert response.status in REFUSED, number
        assert response.json["error"]
        if number == 99:
            before = resident_bytes()
    assert resident_bytes() - before < 20_000_000, "memory grows"


def resident_bytes():
    """Of this process, in which the service runs; where that cannot be known, always the same."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.slow
def test_undecodable_images(loaders, shared_path):
    """Seconds."""
    paths = sorted(shared_path("data", "odd_images", "undecodable").iterdir())
    assert paths
    with running(loaders) as service:
        service.wait_until_ready()
        for path in paths:
            response = service.request("/", path.read_bytes())
            assert response.status in REFUSED, path
            assert response.json["error"]


@pytest.mark.slow
def test_what_the_document_promises_holds(loaders):
    """Schemathesis over the OpenAPI document; a minute or two."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.specs.openapi import checks

    with running(loaders, preload=True) as service:
        service.wait_until_ready()
        schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        seen = set()
        for result in schema.get_all_operations():
            operation = result.ok()
            for case in _cases(schemathesis, operation, 60):
                response = case.call()
                case.validate_response(
                    response,
                    checks=[
                        schemathesis.checks.not_a_server_error,
                        checks.status_code_conformance,
                        checks.content_type_conformance,
                        checks.response_schema_conformance,
                    ],
                )
                seen.add(response.status_code)
        assert {200, 415, 422} <= seen


def _cases(schemathesis, operation, count):
    """Made-up calls of an operation, as the document has them and as it does not."""
    import hypothesis

    found = []

    for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
        strategy = operation.as_strategy(generation_mode=mode)
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # there is nothing wrong to send to it

            @hypothesis.given(case=strategy)
            @hypothesis.settings(
                max_examples=count, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
            )
            def collect(case):
                found.append(case)

            collect()
    return found


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "192.168.1.5:80"}, 200),
        ({"Host": "photos.example"}, 200),
        ({"Host": "PHOTOS.example:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "photos.example", "Origin": "https://photos.example"}, 200),
        ({"Host": "localhost:8000", "Origin": "https://friend.example"}, 200),
        ({"Host": "localhost:8000", "Origin": "https://friend.example.evil.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
        ({"Host": "localhost:8000", "Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "https://evil.example"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/", "/models", "/openapi.json"])
def test_other_names_and_origins_are_refused(known, path, headers, status):
    connection = http.client.HTTPConnection("127.0.0.1", known.port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == status
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    if status == 403:
        assert re.search("--allow-(host|origin)", json.loads(body)["error"])
    elif headers.get("Origin") == "https://friend.example":
        assert response.headers["Access-Control-Allow-Origin"] == "https://friend.example"


@pytest.fixture(scope="module")
def known(loaders):
    """A service with a name, and a page elsewhere that may call it."""
    with running(loaders, allow_hosts=["photos.example"], allow_origins=["https://friend.example"]) as service:
        yield service


@pytest.mark.parametrize("token", ["", "  ", "\t"])
def test_an_empty_token_does_not_start(token):
    with pytest.raises(ValueError, match="the token is empty"):
        create_app({"tiny": lambda: None}, token=token)
    for arguments, environment in (([f"--token={token}"], {}), ([], {"DETR_SERVE_TOKEN": token})):
        result = CliRunner().invoke(cli.app, ["serve", *arguments], env={"COLUMNS": "200", **environment})
        assert result.exit_code == 2, result.output
        assert "the token is empty" in result.output


def test_the_description_of_the_interface_resolves(small):
    """Every reference in the OpenAPI document leads somewhere."""
    document = small.request("/openapi.json").json

    def references(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for part in value.values():
                yield from references(part)
        elif isinstance(value, list):
            for part in value:
                yield from references(part)

    found = set(references(document))
    assert found
    for reference in found:
        target = document
        for name in reference.removeprefix("#/").split("/"):
            target = target[name]
