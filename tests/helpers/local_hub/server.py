"""A small server that speaks the part of the Hub's HTTP interface that pushing and loading models needs.

The real huggingface_hub, pointed at it by HF_ENDPOINT, creates repositories, uploads, commits, opens pull requests,
lists and downloads. Faults can be ordered: an error status, a connection cut while a file goes up or down, an answer
that is lost after the work was done, damaged content.

Limits: models only (no datasets, Spaces, buckets); large files by LFS in one piece, no Xet and no multipart; no
branches or tags by request; card metadata is parsed and its model-index, license and task looked at, where the real Hub
checks more; everything is in memory and gone with the server. As a proxy it serves images by their public address.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from local_hub.store import File, Refusal, Repository, is_large, large_file, small_file

TOKENS = {"hf_writer": "someone", "hf_reader": "reader"}
"""Token → user. `someone` may also write to ORGANIZATIONS."""
ORGANIZATIONS = {"someone": ("an-org", "facebook"), "reader": ()}
MODEL = r"(?P<model>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match.

    `kind` is a status; "cut" (the connection ends in the middle of the content, of whichever direction); "lost" (the
    work is done, the answer never comes); or "damaged" (a byte of the content is another).
    """

    method: str
    path: str
    kind: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method == method and re.search(self.path, path) is not None


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(values: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(values).encode(), {"Content-Type": "application/json"})


class HubServer:
    """Runs until `close`; its content may be looked at and changed from outside."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        # Another host to the client, as the Hub's large files are; a token must not be sent there.
        self.cdn = f"http://localhost:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def forget(self) -> None:
        """Be as new."""
        for content in (self.repositories, self.large, self.images, self.faults, self.requests):
            content.clear()

    def add(self, model: str, folder: Path, name: str = "main", private: bool = False, under: str = "") -> str:
        """Put the files of a folder into a repository as a commit that a branch or tag points to."""
        repository = self.repositories.setdefault(model, Repository(model, private))
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content, place = path.read_bytes(), under + path.relative_to(folder).as_posix()
            if is_large(place, len(content), content[:512]):
                oid = hashlib.sha256(content).hexdigest()
                self.large[oid] = content
                files[place] = large_file(oid, len(content))
            else:
                files[place] = small_file(content)
        return repository.add(f"Add {name}", repository.names["main"], files, name)

    def content(self, model: str, revision: str = "main") -> dict[str, bytes]:
        """All files of a model but `.gitattributes`."""
        repository = self.repositories[model]
        files = repository.commits[repository.resolve(revision)].files
        return {path: self.read(file) for path, file in files.items() if path != ".gitattributes"}

    def read(self, file: File) -> bytes:
        return self.large[file.sha256] if file.large else file.content

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.matches(method, path):
                fault.times -= 1
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *arguments: Any) -> None:
        pass

    def handle_request(self) -> None:
        parsed = urllib.parse.urlsplit(self.path)
        path = parsed.path
        self.query = dict(urllib.parse.parse_qsl(parsed.query))
        self.hub.requests.append(f"{self.command} {path}")
        fault = self.hub.fault(self.command, path)
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.kind == "cut" and length:
            self.rfile.read(length // 2)
            self.cut()
            return
        self.body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if fault and isinstance(fault.kind, int):
            self.answer(Answer(fault.kind, b"ordered by the test", fault.headers))
            return
        try:
            answer = self.image() if parsed.scheme else self.route(path)
        except Refusal as refusal:
            code = {"X-Error-Code": refusal.code} if refusal.code else {}
            answer = as_json({"error": str(refusal)}, refusal.status)
            answer.headers |= {"X-Error-Message": str(refusal), **code, **refusal.headers}
        if fault and fault.kind == "lost":
            self.cut()
            return
        if fault and fault.kind == "damaged":
            middle = len(answer.body) // 2
            answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]
        self.answer(answer, cut=bool(fault and fault.kind == "cut"))

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, answer: Answer, cut: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        if cut:
            self.cut()

    def cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def route(self, path: str) -> Answer:
        for method, pattern, function in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in (self.command, {"HEAD": "GET"}.get(self.command)):
                found = {name: urllib.parse.unquote(value) for name, value in match.groupdict().items() if value}
                return function(self, **found)
        raise Refusal(404, f"this server does not know {self.command} {path}")

    def user(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in TOKENS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return TOKENS.get(given)

    def repository(self, model: str, write: bool = False) -> Repository:
        """A repository that the user may see, and write to."""
        user = self.user()
        found = self.hub.repositories.get(model)
        if found is None or (found.private and not self.owns(user, model)):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        if write and not self.owns(user, model):
            raise Refusal(403, "You don't have the rights to write to this repository")
        return found

    def owns(self, user: str | None, model: str) -> bool:
        return user is not None and model.split("/")[0] in (user, *ORGANIZATIONS[user])

    def json(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.body)
        return values

    # What the client may ask, in the order in which pushing and loading do.

    def who_am_i(self) -> Answer:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return as_json({"type": "user", "name": user, "orgs": [{"name": name} for name in ORGANIZATIONS[user]]})

    def create(self) -> Answer:
        values, user = self.json(), self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        model = f"{values.get('organization') or user}/{values['name']}"
        if not self.owns(user, model):
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {model.split('/')[0]}")
        if model in self.hub.repositories:
            return as_json({"error": "You already created this model repo", "url": f"{self.hub.url}/{model}"}, 409)
        private = values.get("visibility") == "private" or bool(values.get("private"))  # the latter: client 1
        self.hub.repositories[model] = Repository(model, private)
        return as_json({"url": f"{self.hub.url}/{model}", "name": model})

    def check_card(self) -> Answer:
        errors = card_errors(self.json()["content"])
        return as_json({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def info(self, model: str, revision: str = "main") -> Answer:
        repository = self.repository(model)
        oid = repository.resolve(revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[oid].files)]
        return as_json({"id": model, "sha": oid, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, model: str, revision: str, folder: str = "") -> Answer:
        repository = self.repository(model)
        files = repository.commits[repository.resolve(revision)].files
        chosen = {path: file for path, file in files.items() if not folder or path.startswith(folder + "/")}
        if folder and not chosen:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return as_json([file.info(path) for path, file in sorted(chosen.items())])

    def preupload(self, model: str, revision: str) -> Answer:
        repository = self.repository(model, write=True)
        files = repository.commits[repository.resolve(revision)].files
        answers = []
        for asked in self.json()["files"]:
            large = is_large(asked["path"], asked["size"], base64.b64decode(asked["sample"]))
            answer = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if asked["path"] in files:
                answer["oid"] = files[asked["path"]].etag
            answers.append(answer)
        return as_json({"files": answers})

    def batch(self, model: str) -> Answer:
        self.repository(model, write=True)
        objects = []
        for asked in self.json()["objects"]:
            if asked["oid"] not in self.hub.large:
                verify = {"href": f"{self.hub.url}/{model}/verify", "header": {}}
                upload = {"href": f"{self.hub.cdn}/large/{asked['oid']}"}
                asked["actions"] = {"upload": upload, "verify": verify}
            objects.append(asked)
        return as_json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> Answer:
        self.refuse_token()
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content is not what its hash says")
        self.hub.large[oid] = self.body
        return Answer()

    def verify(self, model: str) -> Answer:
        self.repository(model, write=True)
        asked = self.json()
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(422, "the file has not arrived")
        return as_json({})

    def commit(self, model: str, revision: str) -> Answer:
        repository = self.repository(model, write=True)
        lines = [json.loads(line) for line in self.body.splitlines()]
        oid, request = repository.commit(lines, revision, self.hub.large, self.query.get("create_pr") == "1")
        answer = {"commitUrl": f"{self.hub.url}/{model}/commit/{oid}", "commitOid": oid}
        if request:
            answer["pullRequestUrl"] = f"{self.hub.url}/{model}/discussions/{request.rsplit('/', 1)[-1]}"
        return as_json(answer)

    def resolve(self, model: str, revision: str, path: str) -> Answer:
        oid, file = self.repository(model).file(revision, path)
        headers = {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if not file.large:
            return Answer(200, file.content, headers)
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        return Answer(302, b"", headers | {"Location": f"{self.hub.cdn}/large/{file.sha256}"})

    def download(self, oid: str) -> Answer:
        self.refuse_token()
        content = self.hub.large[oid]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked:
            return Answer(200, content, {"ETag": f'"{oid}"'})
        start = int(asked[1])
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return Answer(206, content[start:], {"ETag": f'"{oid}"', "Content-Range": span})

    def refuse_token(self) -> None:
        if self.headers.get("Authorization"):
            raise Refusal(400, "a token was sent to where large files lie")

    def image(self) -> Answer:
        if self.path not in self.hub.images:
            raise Refusal(404, f"no such image: {self.path}")
        return Answer(200, self.hub.images[self.path], {"Content-Type": "image/jpeg"})


ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/api/whoami-v2", Handler.who_am_i),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.check_card),
    ("GET", f"/api/models/{MODEL}", Handler.info),
    ("GET", f"/api/models/{MODEL}/revision/{REVISION}", Handler.info),
    ("GET", f"/api/models/{MODEL}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    ("POST", f"/api/models/{MODEL}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"/{MODEL}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]{64})", Handler.upload),
    ("POST", f"/{MODEL}/verify", Handler.verify),
    ("POST", f"/api/models/{MODEL}/commit/{REVISION}", Handler.commit),
    ("GET", f"/{MODEL}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
    ("GET", "/large/(?P<oid>[0-9a-f]{64})", Handler.download),
]

LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "other"}
TASKS = {"object-detection", "image-segmentation"}


def card_errors(content: str) -> list[str]:
    """What is wrong with a card's metadata, by the rules of the Hub that concern our cards."""
    parts = content.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return ["no metadata at the beginning"]
    try:
        values = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"]
    errors = []
    if "license" in values and values["license"] not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    if "pipeline_tag" in values and values["pipeline_tag"] not in TASKS:
        errors.append(f'"pipeline_tag" must be one of {sorted(TASKS)}')
    for entry in values.get("model-index", []):
        if not entry.get("name"):
            errors.append('"model-index[].name" is required')
        for result in entry.get("results", []):
            errors += _result_errors(result)
    return errors


def _result_errors(result: dict[str, Any]) -> list[str]:
    wanted = [("task", "type"), ("dataset", "type"), ("dataset", "name")]
    errors = [f'"model-index[].results[].{a}.{b}" is required' for a, b in wanted if not result.get(a, {}).get(b)]
    if not result.get("metrics"):
        errors.append('"model-index[].results[].metrics" is required')
    for metric in result.get("metrics", []):
        errors += [f'"metrics[].{name}" is required' for name in ("type", "value") if metric.get(name) is None]
    if "source" in result and not str(result["source"].get("url", "")).startswith("http"):
        errors.append('"source.url" must be a url')
    return errors
