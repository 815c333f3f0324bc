"""Images by URL: from public addresses only, whatever a name, a redirect or an encoding says."""

import http.server
import socket
import threading
import time

import pytest

from serving.conftest import png, running
from transformers_detr.serving import fetching
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.fetching import fetch, is_public

NOT_PUBLIC = [
    "fec0::1",
    "feff::1",
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1"),
    *("ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    "2001:db8::1",
]
HERE = [
    *("http://127.0.0.1/", "http://localhost/", "http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://0/"),
    *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/", "http://u:p@127.0.0.1/"),
]


class Site(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self):
        if self.path == "/loop":
            return self.move("/loop")
        if self.path == "/inside":
            return self.move("http://169.254.169.254/latest/meta-data")
        if self.path == "/to-file":
            return self.move("file:///etc/passwd")
        if self.path == "/moved":
            return self.move("/image.png")
        if self.path == "/missing":
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        if self.path == "/slow":
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif self.path == "/endless":
            while True:
                self.wfile.write(b"x" * 65536)
        else:
            self.wfile.write(self.content)

    def move(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(images):
    Site.content = png(images[0])

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass

    with Quiet(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def this_machine_is_public(monkeypatch):
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1" or is_public(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_these_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_these_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("url", HERE)
def test_private_addresses_are_refused_however_they_are_written(url):
    with pytest.raises(ServiceError, match=r"not public|cannot be fetched"):
        fetch(url, 1000, 5)


@pytest.mark.parametrize(
    "url", ["ftp://8.8.8.8/x", "file:///etc/passwd", "http:///x", "gopher://8.8.8.8", "//8.8.8.8/"]
)
def test_only_http(url):
    with pytest.raises(ServiceError, match="only http and https"):
        fetch(url, 1000, 5)


def test_one_private_address_of_a_name_is_enough(monkeypatch):
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    with pytest.raises(ServiceError, match="not public"):
        fetch("http://both.example/", 1000, 5)


def test_the_name_is_resolved_once_and_the_checked_address_is_connected_to(monkeypatch, site, this_machine_is_public):
    """A name server that responses otherwise the second time changes nothing."""
    whole, asked, port = socket.getaddrinfo, [], int(site.rpartition(":")[2])

    def resolve(host, *arguments, **keywords):
        if host != "cats.example":
            return whole(host, *arguments, **keywords)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if len(asked) == 1 else "10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert fetch(f"http://cats.example:{port}/image.png", 10**6, 5) == Site.content
    assert asked == ["cats.example"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/inside", "not public"),
        ("/to-file", "only http"),
        ("/loop", "redirects more than"),
        ("/missing", "status 404"),
        ("/endless", "more than 100000 bytes"),
    ],
)
def test_what_sites_may_try(site, this_machine_is_public, path, reason):
    with pytest.raises(ServiceError, match=reason):
        fetch(site + path, 100_000, 5)


def test_a_site_that_sends_a_byte_now_and_then_is_cut_off(site, this_machine_is_public):
    start = time.monotonic()
    with pytest.raises(ServiceError, match="cannot be fetched"):
        fetch(site + "/slow", 100_000, 0.5)
    assert time.monotonic() - start < 3


def test_the_service_fetches_where_it_may(loaders, site, this_machine_is_public, images):
    with running(loaders, allow_urls=True) as service:
        service.wait_until_ready()
        direct = service.request("/", png(images[0])).json
        for path in ("/image.png", "/moved"):
            assert service.request_json({"inputs": site + path}).json == direct
        refused = service.request_json({"inputs": site + "/inside"})
        assert (refused.status, refused.json["error"]) == (400, "the URL resolves to an address that is not public")
