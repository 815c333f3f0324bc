"""Layout of YOLO folders: class names, the images of each split, the label file of each image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from transformers_detr.data.field_values import shown
from transformers_detr.data.file_discovery import files_below, image_files, read_lines, read_text, split_name
from transformers_detr.data.findings import DatasetError, Finding
from transformers_detr.data.image_lookup import ImageLookup, folder_split

_YAML_SUFFIXES = (".yaml", ".yml")
_NAMES_KEY = re.compile(r"\b(names|nc)\b['\"]?\s*:")
_SPLIT_KEY = re.compile(r"\b(train|val|valid|test)\b['\"]?\s*:")

_ALIAS = re.compile(r"(?:^|[\s,\[{])\*\w", re.MULTILINE)
_MOST_ALIASES = 20


@dataclass(frozen=True)
class YoloLayout:
    """Layout of a dataset.

    Attributes:
        source: The file that names the classes.
        root: Folder of the images and labels.
        class_names: Class name by the number in the label files.
        images: Images of each split.
        faults: What is wrong with the list of each split.
        kpt_shape: Number of keypoints and of numbers each, as data.yaml states them.
        task: "detect", "segment", "obb" or "pose", if data.yaml states it.
    """

    source: Path
    root: Path
    class_names: Mapping[int, str]
    images: Mapping[str, tuple[Path, ...]]
    faults: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    kpt_shape: Any = None
    task: Any = None


def find(path: Path) -> YoloLayout | None:
    """Read the layout from `data.yaml` (the file, or its folder) or `classes.txt`; None if there is none.

    YAML files that describe no dataset are passed over.

    Raises:
        DatasetError: If the file is there but unusable, or several describe different datasets.
    """
    if path.suffix in _YAML_SUFFIXES:
        return _from_yaml(path)
    layouts, errors = [], []
    for file in sorted(file for suffix in _YAML_SUFFIXES for file in path.glob(f"*{suffix}")):
        try:
            if _describes_dataset(file):
                layouts.append(_from_yaml(file))
        except DatasetError as error:
            errors.append(error)
    for other in layouts[1:]:
        if (other.class_names, other.images) != (layouts[0].class_names, layouts[0].images):
            names = f"{layouts[0].source.name} and {other.source.name}"
            raise DatasetError(f"{path}: {names} describe different datasets; name one of them")
    if errors and not layouts:
        raise errors[0]
    return layouts[0] if layouts else _from_class_list(path)


def label_file(image: Path, root: Path) -> Path:
    """Return the label file of an image: in a folder `labels` instead of one of its folders, or beside it.

    Without one, its usual place: `labels` instead of the last `images`, or beside the image.
    """
    inside = image.relative_to(root) if image.is_relative_to(root) else image
    parts = inside.with_suffix(".txt").parts
    folders = range(len(parts) - 2, -1, -1)
    named = [index for index in folders if "image" in parts[index].lower()]
    replaced = [(index, re.sub("(?i)images?", _labels, parts[index])) for index in named]
    replaced += [(index, "labels") for index in folders]
    places = [root.joinpath(*parts[:index], name, *parts[index + 1 :]) for index, name in replaced]
    beside = root.joinpath(*parts)
    usual = places[0] if named else beside
    return next((place for place in (*places, beside) if place.is_file()), usual)


def _labels(images: re.Match[str]) -> str:
    return "Labels" if images[0][0].isupper() else "labels"


def _describes_dataset(file: Path) -> bool:
    """Return whether a YAML file has keys of a dataset's, before it is parsed: others may hold anything."""
    try:
        text = read_text(file)
    except (OSError, ValueError):
        return file.stem == "data"
    return bool(_NAMES_KEY.search(text) and _SPLIT_KEY.search(text))


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        if len(_ALIAS.findall(text)) > _MOST_ALIASES:
            raise DatasetError(
                f"{path}: more than {_MOST_ALIASES} YAML aliases, which can stand for any amount of data"
            )
        content = yaml.safe_load(text)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except DatasetError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not YAML: {error}") from error
    return content if isinstance(content, dict) else {}


def _from_yaml(path: Path) -> YoloLayout:
    """Read the layout from data.yaml.

    Raises:
        DatasetError: If it is unusable; a path in it may be too long for the system, for example.
    """
    try:
        return _declared(path)
    except OSError as error:
        raise DatasetError(f"{path}: a path in it cannot be used: {error.strerror}") from error


def _declared(path: Path) -> YoloLayout:
    content = _load_yaml(path)
    names = _class_names(content, path)
    base = path.parent / str(content.get("path") or "")
    root = base if base.is_dir() else path.parent
    lookup = ImageLookup(root)
    images: dict[str, tuple[Path, ...]] = {}
    faults: dict[str, tuple[Finding, ...]] = {}
    for key, value in content.items():
        split = split_name(str(key)) if str(key).isalpha() else None
        if not split or not value:
            continue
        if split in faults:
            raise DatasetError(f"{path}: {key!r} and another key are both the split {split!r}")
        found = [item for entry in _entries(value, key, path) for item in _images_of(entry, split, root, path, lookup)]
        faults[split] = tuple(item for item in found if isinstance(item, Finding))
        images[split] = tuple(item for item in found if isinstance(item, Path))
        if not images[split] and any(finding.code == "split-missing" for finding in faults[split]):
            del images[split]
    if not images:
        missing = [finding.message for part in faults.values() for finding in part]
        missing = missing or ["none of 'train', 'val', 'test' names a folder of images"]
        raise DatasetError(f"{path}: {'; '.join(missing)}")
    return YoloLayout(path, root, names, images, faults, content.get("kpt_shape"), content.get("task"))


def _entries(value: Any, key: Any, path: Path) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str):
            raise DatasetError(f"{path}: {key!r} must be folders or lists of images, got {shown(entry)}")
    return entries


def _class_names(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Return the class names by number, from a list, a mapping, or a file of one name per line."""
    names = content.get("names")
    if isinstance(names, str) and (path.parent / names).is_file():
        return _listed_names(path.parent / names)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DatasetError(f"{path}: 'names' must list the class names, got {shown(names)}")
    numbered = {}
    for key, name in names.items():
        if not re.fullmatch(r"\d{1,9}", str(key)):
            raise DatasetError(f"{path}: 'names' must be numbered, got {shown(key)}")
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise DatasetError(f"{path}: name of class {key} is {shown(name)}, not text; put it in quotes")
        numbered[int(key)] = str(name)
    declared = str(content.get("nc", len(numbered)))
    if declared not in (str(len(numbered)), str(max(numbered) + 1)):
        raise DatasetError(f"{path}: 'nc' is {declared[:20]}, but 'names' has {len(numbered)}")
    return dict(sorted(numbered.items()))


def _listed_names(file: Path) -> dict[int, str]:
    """Read class names by line, counted from 0; an empty line is a number without a class."""
    return {number: line for number, line in enumerate(read_lines(file)) if line}


def _images_of(entry: str, split: str, root: Path, source: Path, lookup: ImageLookup) -> Iterator[Path | Finding]:
    """List the images of one entry of data.yaml: a folder, or a text file that lists them."""
    place = _place(entry, root, source.parent)
    if place is None:
        yield Finding("split-missing", f"{split}: {entry!r} is not there, in {root} or by its last folders", source)
    elif place.is_dir():
        yield from image_files(place, nested=True)
    else:
        for number, line in enumerate(read_lines(place), start=1):
            if line:
                try:
                    yield lookup.find(line, place, split)
                except LookupError as error:
                    yield Finding("image-missing", str(error), place, place=f"line {number}")


def _place(entry: str, root: Path, home: Path) -> Path | None:
    """Find a folder or file: as it is, or by its last folders, as in `../train/images` or a path of another machine.

    If the entry has the name of a split, so must the part of it that is looked for.
    """
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = [parts[start:] for start in range(len(parts))]
    usable = [tail for tail in tails if any(map(split_name, tail)) or not any(map(split_name, parts))]
    places = [root / entry, home / entry, *(folder.joinpath(*tail) for tail in usable for folder in (root, home))]
    return next((place for place in places if place.exists()), None)


def _from_class_list(folder: Path) -> YoloLayout | None:
    """Read the layout from `classes.txt`, with or without a folder for each split; None without label files.

    Folders count if one of their images has a label file. Those of no split are "train", unless there is such a folder.
    """
    if not folder.is_dir():
        return None
    lists = sorted(file for pattern in ("", "*/", "*/*/") for file in folder.glob(f"{pattern}classes.txt"))
    groups = defaultdict(list)
    if lists:
        for path in files_below(folder):
            groups[path.parent].append(path)
    splits: dict[str | None, list[Path]] = defaultdict(list)
    for place in groups:
        images = image_files(place)
        if any(label_file(path, folder).is_file() for path in images):
            splits[folder_split(images[0], folder)] += images
    if not splits:
        return None
    names = [_listed_names(file) for file in lists]
    for file, other in zip(lists[1:], names[1:], strict=True):
        if other != names[0]:
            raise DatasetError(f"{lists[0]} and {file} name different classes")
    unnamed = splits.pop(None, [])
    if unnamed and "train" not in splits:
        splits["train"] = unnamed
    return YoloLayout(lists[0], folder, names[0], {split: tuple(paths) for split, paths in splits.items() if split})
