"""Staging: prepare and verify the folder to upload, with model card and fingerprint."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import AutoModelForImageSegmentation, AutoModelForObjectDetection

from transformers_detr.backends.registry import exported_files
from transformers_detr.hub.architectures import read_config
from transformers_detr.hub.custom_code import add_custom_code
from transformers_detr.hub.fingerprint import (
    FingerprintError,
    architecture_of,
    compare_fingerprints,
    compute_fingerprint,
    load_for_fingerprint,
    read_fingerprint,
    stock_fingerprint,
    write_fingerprint,
)
from transformers_detr.hub.model_card import model_card
from transformers_detr.hub.model_files import is_weights, model_files
from transformers_detr.model.image_processing_detr import DetrImageProcessor


class PublishingError(Exception):
    """A model cannot be published; the message says why and what to do."""


@dataclass(frozen=True)
class Staged:
    """Folder that is ready for upload.

    Attributes:
        folder: Folder with the files to upload only; large files are links.
        left_out: Files of the source that are not uploaded.
        notes: Notes for the user.
    """

    folder: Path
    left_out: list[str]
    notes: list[str]


def stage(source: Path, repository: str, folder: Path, card: str | None, custom_code: bool) -> Staged:
    """Fill a folder with the files to upload, load the model, and compare its fingerprint.

    Args:
        source: The model's folder, which is not changed.
        repository: Hub id.
        folder: Empty folder to fill.
        card: Existing card on the Hub, used if the source has none.
        custom_code: Add the files of `model/`.

    Raises:
        PublishingError: The fingerprint differs from the recorded one, or from that of stock Transformers without
            custom code; or the folder references custom code that is not uploaded, or has exported graphs only.
        LoadingError: The folder cannot be loaded.
    """
    left_out = _link_files(source, folder)
    graphs = [path.relative_to(folder).as_posix() for path in exported_files(folder).values()]
    if graphs and not any(is_weights(path.name) for path in folder.iterdir()):
        raise PublishingError(
            f"{source}: the folder has {graphs[0]}, but no weights to verify it with: copy model.safetensors of the"
            " model that was exported into it"
        )
    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) if (folder / "config.json").exists() else {}
    )
    if custom_code:
        add_custom_code(folder)
    elif "auto_map" in config:
        raise PublishingError(
            f"{source}: config.json refers to custom code (auto_map): add --with-custom-code to upload the code, or"
            " remove auto_map from config.json and preprocessor_config.json"
        )
    notes = _verify(source, folder, custom_code)
    _write_card(folder, repository, card, custom_code)
    return Staged(folder, left_out, notes)


def _link_files(source: Path, folder: Path) -> list[str]:
    """Link or copy the files to upload into a folder; return the names of the other files."""
    names, left_out = model_files(source)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".json", ".md")):
            shutil.copyfile(source / name, folder / name)  # may be changed
        else:
            _link((source / name).resolve(), folder / name)
    return left_out


def _link(source: Path, path: Path) -> None:
    try:
        path.symlink_to(source)
    except OSError:  # Windows without permission for links
        shutil.copyfile(source, path)


def _verify(source: Path, folder: Path, custom_code: bool) -> list[str]:
    """Compare the fingerprint with the recorded one (written if missing) and with stock Transformers'."""
    model, processor = load_for_fingerprint(folder)
    try:
        numbers = compute_fingerprint(model, processor)
    except FingerprintError as error:
        raise PublishingError(f"{source}: {error}") from error
    record = read_fingerprint(folder)
    if record is None:
        record = numbers
        write_fingerprint(folder, record)
    try:
        compare_fingerprints(record, numbers)
        if custom_code:
            compare_fingerprints(record, compute_fingerprint(_load_custom(folder), processor))
    except FingerprintError as error:
        raise PublishingError(
            f"{source}: the outputs of the model differ from verification.json ({error}); if you changed the model on"
            " purpose, delete that file; a new one is written"
        ) from error
    problem = _stock_problem(folder, processor, record)
    if problem and not custom_code:
        raise PublishingError(
            f"{source}: stock Transformers computes other outputs for this model ({problem}): add --with-custom-code,"
            " so that the model can be loaded with trust_remote_code=True"
        )
    return [f"loads correctly only with trust_remote_code=True; stock Transformers: {problem}"] if problem else []


def _load_custom(folder: Path) -> Any:
    segments = architecture_of(folder) == "DetrForSegmentation"
    auto_class = AutoModelForImageSegmentation if segments else AutoModelForObjectDetection
    return auto_class.from_pretrained(folder, trust_remote_code=True, dtype="float32").eval()


def _stock_problem(folder: Path, processor: Any, record: Any) -> str | None:
    try:
        compare_fingerprints(record, stock_fingerprint(folder, processor))
    except Exception as error:
        # Any error of stock Transformers about a backbone or setting that it does not support.
        return next(iter(str(error).splitlines()), type(error).__name__)
    return None


def _write_card(folder: Path, repository: str, card: str | None, custom_code: bool) -> None:
    """Write the card (of the source, of the Hub, or a new one) with the metrics of the evaluation."""
    path = folder / "README.md"
    if path.exists():
        card = path.read_text(encoding="utf-8")
    elif card is None:
        size = DetrImageProcessor.from_pretrained(folder).size
        card = model_card(read_config(folder), repository, custom_code, set(size) != {"longest_edge"})
    results = folder / "evaluation" / "model_index.json"
    if results.exists():
        card = with_results(card, json.loads(results.read_text(encoding="utf-8")), repository)
    path.write_text(card, encoding="utf-8")


def with_results(card: str, model_index: list[dict[str, Any]], repository: str) -> str:
    """Add metrics to the metadata of a card, replacing older values of the same metric on the same data.

    Args:
        card: Text of the card.
        model_index: Content of `model_index.json` of `detr evaluate`.
        repository: Hub id, the model name if the card has none.
    """
    parsed = ModelCard(card, ignore_metadata_errors=True)
    data: Any = parsed.data  # `ModelCardData`, of which the library's types know the base only
    _, new = model_index_to_eval_results(model_index)
    measured = {(result.unique_identifier, result.metric_type) for result in new}
    old = [r for r in data.eval_results or [] if (r.unique_identifier, r.metric_type) not in measured]
    data.eval_results = old + new
    data.model_name = data.model_name or repository.rpartition("/")[2]
    return str(parsed)
