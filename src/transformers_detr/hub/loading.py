"""Load a model and its image processor from the Hub or a folder, with clear errors."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from transformers_detr.backends.registry import BACKENDS, exported_files
from transformers_detr.hub.architectures import ARCHITECTURES, FAMILIES
from transformers_detr.hub.bundled_model import bundled_folder
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)

# From the particular to the general: the errors are each other's subclasses.
_HUB_FAILURES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (HFValidationError, "no such folder, and not a valid name on the Hub"),
    (
        GatedRepoError,
        "access is restricted; ask for it at https://huggingface.co/{name}, then run `hf auth login`",
    ),
    (RevisionNotFoundError, "the Hub has no revision {revision!r} of it"),
    (
        RepositoryNotFoundError,
        "no such folder, and no such model on the Hub (if it is private, run `hf auth login`)",
    ),
    (
        (LocalEntryNotFoundError, ConnectionError, HfHubHTTPError),
        "the Hugging Face Hub cannot be reached and the model is not in the local cache. Either connect;"
        " or run `hf download {name}` where there is a connection, copy the folder and give its path; or make"
        " such a folder from an original .pth file with conversion/convert_original.py. With a filled cache,"
        " HF_HUB_OFFLINE=1 saves the wait",
    ),
)
_REFUSED = "the Hub does not know this token: run `hf auth login` again, or `hf auth logout` for public models"
_DAMAGED = (
    "a downloaded file is damaged ({error}): download it again with `hf download {name} --force-download`, or with"
    " force_download=True"
)
_INTERRUPTED = "the download was interrupted ({error}): try again; files that have arrived whole are kept"
_LFS_POINTER = b"version https://git-lfs"
_PICKLE = b"\x80"
_MANY = 3


class LoadingError(OSError):
    """A model could not be loaded; the message says why and what to do."""


class DeviceError(ValueError):
    """The requested device cannot be used; the message says why, or names the devices that a backend has."""


def check_device(device: str | torch.device | None) -> None:
    """Refuse a device that PyTorch cannot use.

    Raises:
        DeviceError: If it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"{str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def load_pretrained(
    model_class: type[Model],
    name_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    **model_kwargs: Any,
) -> tuple[Model, DetrImageProcessor]:
    """Load a model, all of whose weights must be there, with its image processor.

    Args:
        model_class: `DetrForObjectDetection`, which stands for the detector of every model type, or
            `DetrForSegmentation`; or another class, whose own type it must be.
        name_or_folder: Hub id such as `facebook/detr-resnet-50`, or a folder with `config.json`,
            `preprocessor_config.json` and the weights, or the name of the bundled model.
        revision: Branch, tag or commit on the Hub.
        token: Hub token, or whether to use the stored one.
        cache_dir: Where downloads are kept.
        local_files_only: Never ask the Hub.
        force_download: Download even what is in the cache.
        subfolder: Where in the folder or repository the files are.
        **model_kwargs: Passed to `model_class.from_pretrained`, such as `dtype` or `attn_implementation`.

    Returns:
        The model, in evaluation mode, and the processor.

    Raises:
        LoadingError: The folder or name does not exist, the Hub cannot be reached, a file is missing, cut
            short or a Git LFS pointer, the model is not a DETR, weights are missing, or class names are.
    """
    name = bundled_folder(str(name_or_folder))
    hub: dict[str, Any] = {
        "revision": revision or "main",
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
        "subfolder": subfolder,
    }
    if is_path(name):
        name = str(Path(name).expanduser())
        _check_folder(Path(name, subfolder))
    try:
        values, _ = DetrConfig.get_config_dict(name, **hub)
        if not values:
            raise LoadingError(f"{name}: {Path(subfolder, 'config.json').as_posix()} is missing")
        kind = _class_in(values, name, model_class)
        processor = DetrImageProcessor.from_pretrained(name, **hub)
        loaded: Any = kind.from_pretrained(name, output_loading_info=True, **hub, **model_kwargs)
        model, info = loaded
    except LoadingError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise LoadingError(_explain(name, revision, error)) from error
    _check_complete(name, kind, info["missing_keys"])
    _check_class_ids(name, model.config.id2label)
    return model, processor


def load_by_architecture(
    name_or_folder: str | Path, *, revision: str | None = None, dtype: str | torch.dtype | None = None
) -> tuple[DetrPreTrainedModel, DetrImageProcessor]:
    """Load a model for detection or segmentation, as its configuration says, and its image processor.

    Args:
        name_or_folder: Hub id, folder, or the name of the bundled model.
        revision: Branch, tag or commit on the Hub.
        dtype: Type to compute in, such as "bfloat16"; None keeps the type of the stored weights.

    Returns:
        The model, in evaluation mode, and the processor.

    Raises:
        LoadingError: See `load_pretrained`.
    """
    segments = holds_segmentation(name_or_folder, revision)
    model_class: type[DetrPreTrainedModel] = DetrForSegmentation if segments else DetrForObjectDetection
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    return load_pretrained(model_class, name_or_folder, revision=revision, **options)


def holds_segmentation(name_or_folder: str | Path, revision: str | None = None) -> bool:
    """Return whether a configuration on the Hub or in a folder is for segmentation; False if it cannot be read.

    Args:
        name_or_folder: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
    """
    name = bundled_folder(str(name_or_folder))
    if is_path(name):
        name = str(Path(name).expanduser())
    try:
        values, _ = DetrConfig.get_config_dict(name, revision=revision)
    except OSError:  # `load_pretrained` says what is wrong
        return False
    return values.get("architectures") == ["DetrForSegmentation"]


def download_files(name: str, files: Sequence[str], *, revision: str | None = None, **hub: Any) -> Path:
    """Download files of a model from the Hub, except those in the cache.

    Args:
        name: Hub id.
        files: Their names there, with `/`.
        revision: Branch, tag or commit.
        **hub: `token`, `cache_dir`, `local_files_only` and `force_download`, see `load_pretrained`.

    Returns:
        Folder of the files; files that do not exist on the Hub are missing in it.

    Raises:
        LoadingError: The name or revision does not exist, or the Hub cannot be reached.
    """
    folder, commit = None, revision
    for file in files:
        try:
            path = Path(hf_hub_download(name, file, revision=commit, **hub))
        except LocalEntryNotFoundError as error:
            raise LoadingError(_explain(name, revision, error)) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the client's own, and those of a library that it changes
            raise LoadingError(_explain(name, revision, error)) from error
        folder = Path(*path.parts[: -len(Path(file).parts)])
        commit = folder.name  # so that all are of one commit
    if folder is None:
        raise LoadingError(f"{name}: {files[0]} is missing")
    return folder


def check_weight_file(path: Path) -> None:
    """Raise an error if a weight file is damaged or a Git LFS pointer.

    Args:
        path: A `.safetensors` file, or a PyTorch file of any ending.

    Raises:
        LoadingError: The file is empty, a Git LFS pointer, truncated, or not a weight file.
    """
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if not head:
        raise LoadingError(f"{path}: the file is empty")
    if head == _LFS_POINTER:
        raise LoadingError(
            f"{path}: this is a Git LFS pointer, not the weights; run `git lfs pull` in its folder,"
            " or download the file with `hf download`"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise LoadingError(f"{path}: the file is truncated or damaged ({error}); download it again") from error
    elif head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            raise LoadingError(f"{path}: the file is truncated; download it again")
    elif not head.startswith(_PICKLE):
        raise LoadingError(f"{path}: this is not a PyTorch file, but perhaps a saved web page; download it again")


def is_path(name: str) -> bool:
    """Return whether a name is a local path: it exists, or it cannot be a Hub id."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise LoadingError(f"{folder}: no such folder")
    if not folder.is_dir():
        raise LoadingError(
            f"{folder}: this is a file; give a folder with config.json, preprocessor_config.json and the weights"
            " (an original .pth file becomes one with conversion/convert_original.py)"
        )
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise LoadingError(f"{folder}: {name} is missing")
    weights = list(_weight_files(folder))
    if not weights and exported_files(folder):
        raise LoadingError(
            f"{folder}: this is an exported model without PyTorch weights; give the folder that was exported,"
            f" or choose a backend: --backend {', '.join(BACKENDS)}, in Python backend=…"
        )
    if not weights:
        raise LoadingError(f"{folder}: no weights here (model.safetensors or pytorch_model.bin)")
    for path in weights:
        check_weight_file(path)


def _weight_files(folder: Path) -> Iterator[Path]:
    """List the weight files that would be loaded, in one piece or in shards."""
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole = folder / f"{stem}.{ending}"
        index = folder / f"{stem}.{ending}.index.json"
        if whole.is_file():
            yield whole
            return
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            for shard in shards:
                if not (folder / shard).is_file():
                    raise LoadingError(f"{folder}: {shard}, which {index.name} lists, is missing")
                yield folder / shard
            return


def _class_in(values: dict[str, Any], name: str, model_class: type[Model]) -> type[Model]:
    """Return the class to load: the detector of the configuration's model type, or `model_class` itself."""
    model_type = values.get("model_type")
    if model_type not in FAMILIES:
        known = " or ".join(FAMILIES)
        raise LoadingError(f"{name}: this is a model of type {model_type!r}, not a DETR (model_type {known})")
    family = FAMILIES[model_type]
    if model_class is DetrForSegmentation and family.segmenter is None:
        raise LoadingError(f"{name}: models of type {model_type!r} have no masks; use `detr detect` or Detector")
    purposes = {
        DetrForObjectDetection: "detects objects; use `detr detect` or Detector",
        DetrForSegmentation: "segments; use `detr segment` or Segmenter",
    }
    stored = ARCHITECTURES.get((values.get("architectures") or [""])[0])
    if stored in purposes and model_class in set(purposes) - {stored}:
        raise LoadingError(f"{name}: this model {purposes[stored]}")
    kind: Any = family.detector if model_class is DetrForObjectDetection else model_class
    return kind


def _check_complete(name: str, model_class: type, missing: Any) -> None:
    keys = sorted(missing)
    if keys:
        more = f" and {len(keys) - _MANY} more" if len(keys) > _MANY else ""
        raise LoadingError(
            f"{name}: the checkpoint lacks weights of {model_class.__name__}: {', '.join(keys[:_MANY])}{more}"
        )


def _check_class_ids(name: str, id2label: dict[int, str]) -> None:
    """Refuse class ids with gaps: Transformers counts the names, so a later id would mean "no object"."""
    count = len(id2label)
    unnamed = sorted(set(range(count)) - set(id2label))
    if unnamed:
        raise LoadingError(
            f"{name}: config.json: id2label has {count} names, so their ids must be 0 to {count - 1}; {unnamed[0]} has"
            " none (give ids that are not used the name N/A)"
        )


def _explain(name: str, revision: str | None, error: Exception) -> str:
    """Return a message that says why a download from the Hub failed and what to do."""
    if is_path(name):
        return f"{name}: {error}"
    if any(_is_refused(cause) for cause in _causes(error)):
        return f"{name}: {_REFUSED}"
    for kind, message in _HUB_FAILURES:
        if any(isinstance(cause, kind) for cause in _causes(error)):
            return f"{name}: {message.format(name=name, revision=revision)}"
    for cause in _causes(error):
        if isinstance(cause, SafetensorError | UnpicklingError):
            # Of what cannot be unpickled, torch says how to run its code all the same.
            reason = cause if isinstance(cause, SafetensorError) else "it holds something else than tensors"
            return f"{name}: {_DAMAGED.format(name=name, error=reason)}"
        if type(cause).__module__.partition(".")[0].startswith("httpx"):  # another library in each major version
            return f"{name}: {_INTERRUPTED.format(error=cause)}"
    return f"{name}: {error}"


def _is_refused(cause: BaseException) -> bool:
    if not isinstance(cause, HfHubHTTPError) or isinstance(cause, RepositoryNotFoundError):
        return False
    return cause.response.status_code == HTTPStatus.UNAUTHORIZED


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
