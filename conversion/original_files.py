"""Original checkpoint files: download, read and write."""

from __future__ import annotations

import argparse
import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from torch import Tensor

from transformers_detr.atomic_io import atomic_file
from transformers_detr.hub.loading import LoadingError, check_weight_file
from transformers_detr.hub.published_checkpoints import Checkpoint

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30
_TRAINING_STATE = ("optimizer", "lr_scheduler", "epoch", "args")


class ConversionError(Exception):
    """A checkpoint cannot be obtained or converted; the message gives the reason in one line."""


def fetch(checkpoint: Checkpoint) -> Path:
    """Return the published file of a checkpoint, downloaded unless torch.hub's cache has it.

    Args:
        checkpoint: Which one.

    Returns:
        The file, its content checked against the hash in its name, if it has one.

    Raises:
        ConversionError: If the project has no lasting address, the site cannot be reached or the content is not the
            published file.
    """
    if checkpoint.url is None:
        raise ConversionError(
            f"{checkpoint.name}: cannot be downloaded from here; download {checkpoint.file_name} as"
            f" {checkpoint.project.page} says and give it with --checkpoint"
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / checkpoint.file_name
    if not path.exists():
        download(checkpoint.url, path, checkpoint.sha256_head)
    elif not _has_hash(path, checkpoint.sha256_head):
        raise ConversionError(
            f"{path}: the content does not match the hash in the file name; delete the file and run again"
        )
    return path


def download(url: str, path: Path, sha256_head: str | None) -> None:
    """Download a file next to its place and move it there once its content has been checked.

    An interrupted download is continued by the next call.

    Args:
        url: What to download.
        path: Where it shall be.
        sha256_head: How the sha256 of its content must begin, in hex; None if it is not known.

    Raises:
        ConversionError: If the download fails, is truncated or has another content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _download_rest(url, part)
    except (OSError, HTTPException) as error:
        raise ConversionError(
            f"{url}: download failed ({error}); run again to resume it, or download the file elsewhere and give it with"
            " --checkpoint"
        ) from error
    if not _has_hash(part, sha256_head):
        part.unlink()
        raise ConversionError(
            f"{url}: the content differs from the published file (its sha256 must begin with {sha256_head})"
        )
    part.replace(path)


def read(path: Path) -> dict[str, Tensor]:
    """Read the weights from an original checkpoint: a published file, or one that the original's training wrote.

    Args:
        path: The file. Beside the weights under "model" it may hold a training state, which is left out; it may
            also hold nothing but the weights.

    Returns:
        Original names to tensors, on the CPU.

    Raises:
        ConversionError: If this is not such a file.
    """
    try:
        check_weight_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the original stores its arguments so
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConversionError(f"{path}: no such file") from error
    except LoadingError as error:
        raise ConversionError(str(error)) from error
    except Exception as error:
        # Whatever the file's bytes make torch or pickle trip over.
        raise ConversionError(f"{path}: this cannot be read as a PyTorch checkpoint ({_reason(error)})") from error
    return _weights(content, path)


def write(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights as an original checkpoint file: a dictionary with the weights under "model"."""
    # By a handle: given a path, torch would write the name of the temporary file into the archive.
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save({"model": weights}, file)


def _reason(error: Exception) -> str:
    """Return one line of torch's and pickle's errors, which are long and advise unsafe loading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line]
    line = next(iter(telling or lines), "")
    return f"{type(error).__name__}: {line.split('. ')[0]}"


def _download_rest(url: str, part: Path) -> None:
    """Download the bytes that `part` lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left
            return
        raise
    with response, _progress() as progress:
        have = have if response.status == 206 else 0
        length = int(response.headers.get("Content-Length") or 0)
        task = progress.add_task(url.rsplit("/", 1)[-1], total=have + length or None, completed=have)
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if length and part.stat().st_size < have + length:
        raise OSError(f"the connection ended after {part.stat().st_size} of {have + length} bytes")


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())


def _has_hash(path: Path, sha256_head: str | None) -> bool:
    if sha256_head is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256_head)


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in the content of an original file."""
    if isinstance(content, dict) and "model" in content:
        content = content["model"]
    if not isinstance(content, dict):
        raise ConversionError(f"{path}: this holds a {type(content).__name__}, not a dictionary of weights")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        state = " (a training state without weights)" if set(others) & set(_TRAINING_STATE) else ""
        found = f"found {', '.join(others[:5])}" if others else "it is empty"
        raise ConversionError(f'{path}: no weights, neither under "model" nor at the top{state}; {found}')
    return dict(content)
