"""Repositories as the Hub keeps them: commits that never change, names that point to commits, large files apart."""

from __future__ import annotations

import fnmatch
import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any

LARGE_PATTERNS = ("*.safetensors", "*.bin", "*.onnx", "*.pt", "*.pth", "*.pt2", "*.png", "*.jpg", "*.npz")
LARGE_SIZE = 10_000_000


class Refusal(Exception):
    """A request that the Hub answers with an error.

    `code` is what the client tells errors of one status apart by.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


@dataclass(frozen=True)
class File:
    """A file in a commit: its content, or the address and size of it among the large files."""

    content: bytes
    large: bool = False
    size: int = 0

    @property
    def oid(self) -> str:
        """As git names it: the hash of the content, or that of the pointer in its place."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return self.content.decode().split("sha256:")[1].split("\n")[0]

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid

    def info(self, path: str) -> dict[str, Any]:
        """What the tree listing says of it."""
        values: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        if self.large:
            values["size"] = self.size
            values["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.content)}
        return values


def small_file(content: bytes) -> File:
    return File(content, size=len(content))


def large_file(sha256: str, size: int) -> File:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(pointer.encode(), large=True, size=size)


def is_large(path: str, size: int, sample: bytes) -> bool:
    return size > LARGE_SIZE or b"\0" in sample or any(fnmatch.fnmatch(path, pattern) for pattern in LARGE_PATTERNS)


@dataclass(frozen=True)
class Commit:
    title: str
    parent: str | None
    files: dict[str, File]

    @property
    def oid(self) -> str:
        listing = "".join(f"{path} {file.oid}\n" for path, file in sorted(self.files.items()))
        return hashlib.sha1(f"{self.parent}\n{self.title}\n{listing}".encode()).hexdigest()


@dataclass
class Repository:
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        patterns = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_PATTERNS)
        self.add("initial commit", None, {".gitattributes": small_file(patterns.encode())}, "main")

    def add(self, title: str, parent: str | None, files: dict[str, File], name: str) -> str:
        commit = Commit(title, parent, files)
        self.commits[commit.oid] = commit
        self.names[name] = commit.oid
        return commit.oid

    def resolve(self, revision: str) -> str:
        """Commit of a branch, tag, pull request or commit."""
        oid = self.names.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def file(self, revision: str, path: str) -> tuple[str, File]:
        oid = self.resolve(revision)
        if path not in self.commits[oid].files:
            raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": oid})
        return oid, self.commits[oid].files[path]

    def commit(
        self, lines: list[dict[str, Any]], revision: str, large: dict[str, bytes], create_pr: bool
    ) -> tuple[str, str | None]:
        """Apply a commit, wholly or not at all; return its id and the name of the pull request, if it is one."""
        with self.lock:
            parent = self.resolve(revision)
            header = next(line["value"] for line in lines if line["key"] == "header")
            if header.get("parentCommit") not in (None, parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self.commits[parent].files)
            for line in lines:
                _apply(files, line, large)
            name = f"refs/pr/{1 + sum(n.startswith('refs/pr/') for n in self.names)}" if create_pr else revision
            return self.add(header["summary"], parent, files, name), name if create_pr else None


def _apply(files: dict[str, File], line: dict[str, Any], large: dict[str, bytes]) -> None:
    import base64

    kind, value = line["key"], line["value"]
    if kind == "file":
        files[value["path"]] = small_file(base64.b64decode(value["content"]))
    elif kind == "lfsFile":
        if value["oid"] not in large:
            raise Refusal(400, f"LFS pointer of {value['path']} pointed to a file that does not exist")
        files[value["path"]] = large_file(value["oid"], len(large[value["oid"]]))
    elif kind == "deletedFile":
        if files.pop(value["path"], None) is None:
            raise Refusal(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
    elif kind != "header":
        raise Refusal(400, f"this server does not know {kind}")
