"""Compare a staged folder with what is on the Hub, and upload the difference in one commit."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from transformers_detr.hub.model_files import is_weights
from transformers_detr.hub.staging import PublishingError, Staged, stage


class Change(StrEnum):
    """Change of a file by an upload."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"
    REMOVED = "removed"


@dataclass(frozen=True)
class PlannedFile:
    """File of the repository with its size in bytes (after the upload) and its change."""

    path: str
    size: int
    change: Change


@dataclass(frozen=True)
class Plan:
    """Prepared upload.

    Attributes:
        repository: Hub id.
        exists: The repository exists.
        is_private: The repository exists and is private.
        commit: Commit that the files were compared with; None for a new repository.
        files: Files with their changes, without files that only the repository has and that stay.
        staged: Folder to upload, with notes and skipped files.
    """

    repository: str
    exists: bool
    is_private: bool
    commit: str | None
    files: list[PlannedFile]
    staged: Staged

    @property
    def changes(self) -> list[PlannedFile]:
        """Files that change."""
        return [file for file in self.files if file.change != Change.SAME]


@contextmanager
def plan_upload(source: Path, repository: str, custom_code: bool = False) -> Iterator[Plan]:
    """Prepare an upload: collect the files, verify that they load with the same outputs, compare with the Hub.

    Nothing is changed on the Hub. The plan is valid inside the context.

    Args:
        source: The model's folder; it is not changed.
        repository: Hub id, such as `someone/detr-bees`.
        custom_code: Whether the files of `model/` go along.

    Raises:
        PublishingError: The model must not be published as it is, or the Hub cannot be asked; see `stage`.
        LoadingError: The folder cannot be loaded.
    """
    if not source.is_dir():
        raise PublishingError(f"{source}: no such folder")
    api = HfApi()
    with _explained(repository, _UNREACHABLE):
        try:
            info = api.model_info(repository)
        except RepositoryNotFoundError:
            info = None
        commit = info.sha if info else None
        there = list(api.list_repo_tree(repository, recursive=True, revision=commit)) if info else []
        card = _card(api, repository, commit)
    with tempfile.TemporaryDirectory(prefix="detr-push-") as staging:
        folder = Path(staging, repository.rpartition("/")[2])  # under whose name transformers caches the code
        folder.mkdir()
        staged = stage(source, repository, folder, card, custom_code)
        files = compare(staged.folder, [file for file in there if isinstance(file, RepoFile)])
        yield Plan(repository, info is not None, bool(info and info.private), commit, files, staged)


def compare(folder: Path, there: list[RepoFile]) -> list[PlannedFile]:
    """Compare a folder with the files of a repository.

    Weights that only the repository has are removed, as they might be loaded in place of the new ones; other files
    that only the repository has are not listed.
    """
    remote = {file.path: file for file in there}
    planned = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        known = remote.get(name)
        change = Change.NEW if known is None else Change.SAME if _is_same(path, known) else Change.CHANGED
        planned.append(PlannedFile(name, path.stat().st_size, change))
    names = {file.path for file in planned}
    removed = [PlannedFile(f.path, f.size, Change.REMOVED) for f in there if is_weights(f.path) and f.path not in names]
    return planned + removed


def upload(plan: Plan, private: bool = False, create_pr: bool = False) -> CommitInfo | None:
    """Upload the changes of a plan in one commit.

    Args:
        plan: From `plan_upload`, within its context.
        private: Make the repository private if it is new.
        create_pr: Open a pull request instead of changing the main branch.

    Returns:
        The commit; None if there was nothing to change.

    Raises:
        PublishingError: The upload is not allowed or was interrupted. The same call later sends only what has not
            arrived yet.
    """
    if private and plan.exists and not plan.is_private:
        raise PublishingError(
            f"{plan.repository} exists and is public; make it private in its settings on the Hub first"
        )
    if not plan.changes:
        return None
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationDelete(file.path)
        if file.change == Change.REMOVED
        else CommitOperationAdd(file.path, plan.staged.folder / file.path)
        for file in plan.changes
    ]
    api = HfApi()
    with _explained(plan.repository, _INTERRUPTED):
        if not plan.exists:
            api.create_repo(plan.repository, private=private or None, exist_ok=True)
        return api.create_commit(
            plan.repository,
            operations,
            commit_message="Upload model with transformers-detr",
            create_pr=create_pr,
            parent_commit=plan.commit,
        )


def _card(api: HfApi, repository: str, commit: str | None) -> str | None:
    if commit is None:
        return None
    try:
        return Path(api.hf_hub_download(repository, "README.md", revision=commit)).read_text(encoding="utf-8")
    except EntryNotFoundError:
        return None


def _is_same(path: Path, known: RepoFile) -> bool:
    if path.stat().st_size != known.size:
        return False
    if known.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == known.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == known.blob_id


@contextmanager
def _explained(repository: str, otherwise: str) -> Iterator[None]:
    """Turn errors of the client into a message that says what to do; `otherwise` is for unknown errors."""
    try:
        yield
    except HFValidationError as error:
        raise PublishingError(f"{repository}: not a valid name on the Hub; give ORG/NAME") from error
    except LocalTokenNotFoundError as error:
        raise PublishingError(f"{repository}: {_REASONS[HTTPStatus.UNAUTHORIZED]}") from error
    except HfHubHTTPError as error:
        reason = _REASONS.get(error.response.status_code, otherwise)
        raise PublishingError(f"{repository}: {reason.format(error=_first_line(error))}") from error
    except ValueError as error:  # the Hub rejects the card
        raise PublishingError(f"{repository}: {error}") from error
    except Exception as error:
        # Each major version of the client uses another HTTP library, with its own errors.
        raise PublishingError(f"{repository}: {otherwise.format(error=_first_line(error))}") from error


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)


_UNREACHABLE = (
    "the Hub cannot be asked what is there ({error}). Nothing was verified or sent. Run the same command again"
    " where there is a connection"
)
_INTERRUPTED = (
    "the upload was interrupted ({error}). Run the same command again: it sends only what has not arrived yet, and"
    " until it is through the repository stays as it was"
)
_REASONS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: (
        "not logged in, or the token is not valid: run `hf auth login` with a token that may write"
    ),
    HTTPStatus.FORBIDDEN: (
        "the token may not write there: `hf auth whoami` shows whose it is; it needs the role 'write'"
    ),
    HTTPStatus.PRECONDITION_FAILED: (
        "someone changed the repository in the meantime: run the same command again to see what is new"
    ),
    HTTPStatus.TOO_MANY_REQUESTS: (
        "the Hub asks to wait ({error}). Run the same command later: it sends only what has not arrived yet"
    ),
}
