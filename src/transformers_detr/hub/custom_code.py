"""Custom code: a folder with the files of `model/` loads where this package is not installed.

`AutoModelForObjectDetection.from_pretrained(folder, trust_remote_code=True)` then runs these files; without the flag
stock Transformers loads the same folder with its own classes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers_detr import model as hub_set

CODE_FILES = sorted(Path(str(hub_set.__file__)).parent.glob("*_detr.py"))
"""Files of `model/`, to be copied together."""

# Architecture in config.json → Auto* classes that load it, and the classes they return.
_MODELS = {
    "DetrModel": {"AutoModel": "modeling_detr.DetrModel"},
    "DetrForObjectDetection": {
        "AutoModel": "modeling_detr.DetrModel",
        "AutoModelForObjectDetection": "modeling_detr.DetrForObjectDetection",
    },
    "TableTransformerModel": {"AutoModel": "modeling_table_transformer_detr.TableTransformerModel"},
    "TableTransformerForObjectDetection": {
        "AutoModel": "modeling_table_transformer_detr.TableTransformerModel",
        "AutoModelForObjectDetection": "modeling_table_transformer_detr.TableTransformerForObjectDetection",
    },
    "DetrForSegmentation": {
        "AutoModelForImageSegmentation": "modeling_segmentation_detr.DetrForSegmentation",
        "AutoModelForUniversalSegmentation": "modeling_segmentation_detr.DetrForSegmentation",
    },
}
_CONFIGS = {
    "detr": {"AutoConfig": "configuration_detr.DetrConfig"},
    "table-transformer": {"AutoConfig": "configuration_detr.TableTransformerConfig"},
}
_IMAGE_PROCESSOR = {"AutoImageProcessor": "image_processing_detr.DetrImageProcessor"}


def add_custom_code(folder: str | Path) -> list[str]:
    """Copy the code into a folder written by `save_pretrained`, and reference it in both configurations (`auto_map`).

    Unlike `register_for_auto_class`, this changes nothing in the process.

    Args:
        folder: Folder with `config.json` and optionally `preprocessor_config.json`.

    Returns:
        Names of the files written or changed.

    Raises:
        ValueError: `config.json` is missing, or not of a DETR model.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder}: config.json is missing")
    values = _read(path)
    architectures, model_type = values.get("architectures") or [None], values.get("model_type")
    if architectures[0] not in _MODELS or model_type not in _CONFIGS:
        raise ValueError(f"{path}: architectures must name one of {', '.join(_MODELS)}, got {architectures}")
    changed = {"config.json": {**_CONFIGS[model_type], **_MODELS[architectures[0]], **_IMAGE_PROCESSOR}}
    if (folder / "preprocessor_config.json").is_file():
        changed["preprocessor_config.json"] = _IMAGE_PROCESSOR
    for source in CODE_FILES:
        shutil.copyfile(source, folder / source.name)
    for name, auto_map in changed.items():
        (folder / name).write_text(
            json.dumps({**_read(folder / name), "auto_map": auto_map}, indent=2) + "\n", encoding="utf-8"
        )
    return sorted([*changed, *(source.name for source in CODE_FILES)])


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
