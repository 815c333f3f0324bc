"""Reader of Pascal VOC: one XML file an image."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from transformers_detr.data.file_discovery import (
    decode_text,
    files_below,
    only_split,
    read_lines,
    split_name,
    upright_size,
)
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.image_lookup import ImageLookup, folder_split, stem_key
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ROOT = "annotation"
_ROOT_TAG = re.compile(rb"<annotation[\s>]")
_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]*encoding\s*=\s*["']([\w.-]+)["']""")
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class VocLayout:
    """Layout of a dataset.

    Attributes:
        root: Its folder.
        splits: Annotation files of each split.
        is_split: Whether lists or folders of annotation files say so; else the folders of the images may.
    """

    root: Path
    splits: Mapping[str, tuple[Path, ...]]
    is_split: bool


def find(folder: Path) -> VocLayout | None:
    """Return the annotation files of each split; None if the folder is not in this format.

    Every folder below is read that has an annotation file. It is split by the lists in `ImageSets/Main` or `ImageSets`
    beside it, else by its name or the names of the folders around it, else by the folders of the images. The rest is
    "train", but left out if there is such a split.
    """
    if not folder.is_dir():
        return None
    places: dict[Path, list[Path]] = defaultdict(list)
    for path in files_below(folder):
        if path.suffix.lower() == ".xml":
            places[path.parent].append(path)
    splits: dict[str | None, list[Path]] = defaultdict(list)
    for place, files in places.items():
        if any(map(_is_annotation, files)):
            for split, part in _listed(place, files) or [(_named_split(place, folder), files)]:
                splits[split] += part
    rest = splits.pop(None, [])
    is_split = bool(splits)
    if rest and "train" not in splits:
        splits["train"] = rest
    named = {split: tuple(files) for split, files in splits.items() if split}
    return VocLayout(folder, named, is_split) if named else None


def read(name: str, layout: VocLayout, split: str | None, report: Reporter) -> ReadDataset:
    """Read Pascal VOC annotations.

    The corners are taken as they are: the width is xmax − xmin. Objects marked difficult are kept. Classes are
    numbered in the order of their names, over all splits.

    Args:
        name: Name of the dataset.
        layout: From `find`.
        split: The only split to keep; None keeps all. All are read: the classes are known only then.
        report: Called with each fault; the entry is skipped if it returns.

    Raises:
        DatasetError: If there is no object in the dataset.
    """
    parsed = {key: list(_parse(paths, report)) for key, paths in layout.splits.items()}
    class_names = sorted(
        {
            object_name
            for documents in parsed.values()
            for _, root in documents
            for item in root.findall("object")
            if (object_name := _text(item, "name"))
        }
    )
    if not class_names:
        raise DatasetError(f"{name}: no <object> with a <name> in any annotation file")
    reader = _Reader({object_name: label for label, object_name in enumerate(class_names)}, layout.root, report)
    splits = {
        key: tuple(image for path, root in documents if (image := reader.image(path, root)) is not None)
        for key, documents in parsed.items()
    }
    if not layout.is_split:
        splits = _by_image_folder(splits["train"], layout.root)
    return ReadDataset(tuple(class_names), only_split(splits, split, name))


def _by_image_folder(images: Iterable[ImageRecord], root: Path) -> dict[str, tuple[ImageRecord, ...]]:
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in images:
        splits[folder_split(image.path, root) or "train"].append(image)
    return {split: tuple(part) for split, part in splits.items()}


class _Reader:
    """Turn documents into records, with ids by counting."""

    def __init__(self, labels: Mapping[str, int], root: Path, report: Reporter) -> None:
        self.labels = labels
        self.root = root
        self.lookup = ImageLookup(root)
        self.report = report
        self.images = 0
        self.objects = 0

    def image(self, path: Path, root: Element) -> ImageRecord | None:
        id = self.images
        self.images += 1
        try:
            image_path = self._image_path(path, _text(root, "filename"))
        except LookupError as error:
            self.report(Finding("image-missing", str(error), path, id))
            return None
        try:
            height, width = _stated_size(root) or upright_size(image_path)
        except (OSError, ValueError) as error:
            message = f"no usable <size>, and the size of {image_path} cannot be read: {error}"
            self.report(Finding("annotation-malformed", message, path, id))
            return None
        items = (self._object(item, index, path, id) for index, item in enumerate(root.findall("object")))
        return ImageRecord(
            id=id,
            path=image_path,
            height=height,
            width=width,
            objects=tuple(item for item in items if item is not None),
            source=path,
        )

    def _object(self, item: Element, index: int, path: Path, image_id: int) -> ObjectRecord | None:
        self.objects += 1
        place = f"object {index + 1}"
        name = _text(item, "name")
        corners = [_text(item, f"bndbox/{corner}") for corner in _CORNERS]
        try:
            left, top, right, bottom = map(float, corners)
        except ValueError:
            message = f"<bndbox> must hold the numbers {', '.join(_CORNERS)}, got {', '.join(corners)}"
            self.report(Finding("annotation-malformed", message, path, image_id, self.objects, place))
            return None
        if not name:
            self.report(Finding("annotation-malformed", "no <name>", path, image_id, self.objects, place))
            return None
        box = (left, top, right - left, bottom - top)
        return ObjectRecord(self.objects, self.labels[name], box, area=box[2] * box[3], place=place)

    def _image_path(self, path: Path, named: str) -> Path:
        """Return the image of an annotation file: the one with the same stem, else the one that it names.

        Raises:
            LookupError: If there is neither.
        """
        split = folder_split(path, self.root)
        try:
            return self.lookup.find(path.stem, path, split)
        except LookupError:
            return self.lookup.find(named or path.stem, path, split)


def _is_annotation(path: Path) -> bool:
    """Return whether a file begins like an annotation file, in any encoding."""
    with path.open("rb") as file:
        return bool(_ROOT_TAG.search(file.read(_HEAD_BYTES).replace(b"\0", b"")))


def _named_split(place: Path, root: Path) -> str | None:
    """Return the split that a folder is named after; of the dataset's own name, only a whole word counts."""
    if place == root:
        return split_name(root.name) if root.name.isalnum() else None
    return folder_split(place / "any", root)


def _listed(place: Path, files: list[Path]) -> list[tuple[str | None, list[Path]]]:
    """Return the splits that the lists beside a folder of annotation files make; none if they name none of the files.

    `trainval` makes the one of `train` and `val` that has no list.
    """
    by_stem = {stem_key(path.stem): path for path in files}
    for folder in (place.parent / "ImageSets" / "Main", place.parent / "ImageSets"):
        lists = {
            name: [_listed_file(line, place, by_stem) for line in read_lines(file) if line]
            for name in ("train", "val", "test", "trainval")
            if (file := folder / f"{name}.txt").is_file()
        }
        both = lists.pop("trainval", [])
        for split, other in (("train", "val"), ("val", "train")):
            if split not in lists and (rest := [path for path in both if path not in set(lists.get(other, []))]):
                lists[split] = rest
        if not set(by_stem.values()).isdisjoint(path for part in lists.values() for path in part):
            return list(lists.items())
    return []


def _listed_file(line: str, place: Path, by_stem: Mapping[str, Path]) -> Path:
    """Return the annotation file of a line: a name, which may have spaces, or a word before a class flag."""
    names = [name.removesuffix(".xml") for name in (line, line.split()[0])]
    return next((by_stem[key] for key in map(stem_key, names) if key in by_stem), place / f"{names[1]}.xml")


def _parse(paths: tuple[Path, ...], report: Reporter) -> Iterator[tuple[Path, Element]]:
    """Parse annotation files; other XML files are passed over."""
    for path in paths:
        try:
            root = _parse_xml(path.read_bytes())
        except OSError as error:
            report(Finding("annotations-missing", f"cannot be read: {error.strerror}", path))
        except (ElementTree.ParseError, ValueError) as error:
            report(Finding("annotation-malformed", f"not XML: {error}", path))
        else:
            if root.tag == _ROOT:
                yield path, root


def _parse_xml(encoded: bytes) -> Element:
    """Parse XML; text that the parser cannot decode is decoded as declared, else as `decode_text` does.

    Raises:
        ElementTree.ParseError, ValueError: If it is not XML.
    """
    try:
        return ElementTree.fromstring(encoded)
    except (ElementTree.ParseError, ValueError, LookupError):
        declared = _ENCODING.match(encoded)
        try:
            text = encoded.decode(declared[1].decode() if declared else "utf-8")
        except (LookupError, UnicodeDecodeError):
            text = decode_text(encoded)
        return ElementTree.fromstring(text)


def _stated_size(root: Element) -> tuple[int, int] | None:
    """Return the height and width that an annotation file states, if they are positive numbers."""
    try:
        height, width = (float(_text(root, f"size/{side}")) for side in ("height", "width"))
    except ValueError:
        return None
    return (int(height), int(width)) if min(height, width) >= 1 and math.isfinite(height + width) else None


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
