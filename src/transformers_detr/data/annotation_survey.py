"""Annotation files of a folder, recognized by how they begin: to name what a reader did not read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from transformers_detr.data.file_discovery import files_below, is_image
from transformers_detr.data.findings import Finding
from transformers_detr.data.image_lookup import is_file

YOLO_LABELS = "YOLO label"
_FORMATS: Mapping[str, Mapping[str, re.Pattern[bytes]]] = {
    ".xml": {"Pascal VOC": re.compile(rb"<annotation[\s>]"), "CVAT": re.compile(rb"<annotations[\s>]")},
    ".txt": {YOLO_LABELS: re.compile(rb"\A[\xef\xbb\xbf\xff\xfe]*\s*\d+(\.0*)?([ \t]+[-+.\deE]+){4,}\s*?(\n|\r|\Z)")},
    ".json": {
        "labelme": re.compile(rb'"shapes"\s*:'),
        "VIA": re.compile(rb'"(regions|_via_\w+)"\s*:'),
        "Create ML": re.compile(rb'"coordinates"\s*:'),
        "Label Studio": re.compile(rb'"(from_name|original_width)"\s*:'),
        "COCO": re.compile(rb'"(images|annotations|categories)"\s*:\s*\['),
    },
    ".csv": {"CSV": re.compile(rb"(?i)\A.*\b(x_?min|x1|bbox\w*)\b")},
}
_NO_BOXES = ("captions_", "stuff_", "panoptic_", "image_info_", "person_keypoints_", "dataset_info")
_HEAD_BYTES = 65536
_READ_OF_A_FOLDER = 100
"""Files of one suffix in a folder to look into; the further ones are like the last that was recognized."""


def survey(folder: Path, known: Iterable[Path] = ()) -> dict[str, list[Path]]:
    """List the annotation files of a folder and its subfolders by format, but for the known ones.

    Args:
        folder: The folder.
        known: Files to pass over.
    """
    passed = set(known)
    unknown = [path for path in files_below(folder) if path.suffix.lower() in _FORMATS and path not in passed]
    resolved = {path.resolve() for path in passed if is_file(path)} if unknown else set()
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in unknown:
        if path.resolve() not in resolved:
            groups[path.parent, path.suffix.lower()].append(path)
    found: dict[str, list[Path]] = defaultdict(list)
    for paths in groups.values():
        format_ = None
        for index, path in enumerate(paths):
            recognized = _format(path) if index < _READ_OF_A_FOLDER else format_
            if recognized is not None:
                format_ = recognized
                found[recognized].append(path)
    return dict(found)


def unread_files(folder: Path, format_: str, known: Iterable[Path]) -> Iterator[Finding]:
    """Find annotation files that are not read; one finding per format.

    Args:
        folder: Folder of the dataset.
        format_: Label of its format.
        known: Files that were read, or named by another finding.
    """
    for other, paths in survey(folder, known).items():
        same = other.startswith(format_)
        reason = "no image, list or split goes with them" if same else f"the folder is read as {format_}"
        yield Finding("annotations-unread", f"{_shown(other, paths, folder)} not read: {reason}", folder)


def _shown(format_: str, paths: list[Path], folder: Path) -> str:
    """Name files for a message: their number and format, and the first ones."""
    first = ", ".join(str(path.relative_to(folder)) for path in paths[:3])
    return f"{len(paths)} {format_} file{'s' * (len(paths) > 1)} ({first}{', …' * (len(paths) > 3)})"


def describe(folder: Path) -> str:
    """Describe the annotation files and images of a folder in which no dataset was found, as sentences."""
    if not folder.is_dir():
        return ""
    found = survey(folder)
    images = sum(is_image(path.name) for path in files_below(folder))
    parts = [_shown(format_, paths, folder) for format_, paths in found.items()]
    parts += [f"{images} image{'s' * (images > 1)}"] if images else []
    text = f"It holds {' and '.join(parts)}. " if parts else "It holds no annotation files or images. "
    if YOLO_LABELS in found:
        text += "It looks like YOLO, but data.yaml (or classes.txt), which names the classes, is missing. "
    return text


def _format(path: Path) -> str | None:
    """Recognize the format of an annotation file; None if it is none or cannot be read."""
    if path.name.startswith(_NO_BOXES):
        return None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).replace(b"\0", b"")  # UTF-16
    except OSError:
        return None
    return next((name for name, start in _FORMATS[path.suffix.lower()].items() if start.search(head)), None)
