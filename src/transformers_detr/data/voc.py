"""Reader of Pascal VOC: one XML file an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from transformers_detr.data.file_discovery import image_files, only_split, split_name, upright_size
from transformers_detr.data.findings import DatasetError, Finding, Reporter
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find(folder: Path) -> dict[str, list[Path]] | None:
    """Return the annotation files of each split; None if the folder is not in this format.

    Either a folder `Annotations`, here or up to two levels below, split by the lists in `ImageSets/Main`; or
    folders named after the splits with the XML files beside the images.
    """
    if not folder.is_dir():
        return None
    for place in sorted(_annotation_folders(folder)):
        files = sorted(place.glob("*.xml"))
        if files:
            return _listed(place) or {"train": files}
    splits: dict[str, list[Path]] = {}
    for child in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        files = sorted(child.glob("*.xml"))
        if files:
            splits[split_name(child.name) or "train"] = files
    return splits or None


def read(name: str, layout: Mapping[str, list[Path]], split: str | None, report: Reporter) -> ReadDataset:
    """Read Pascal VOC annotations.

    The corners are taken as they are: the width is xmax − xmin. Objects marked difficult are kept. Classes are
    numbered in the order of their names, over all splits.

    Args:
        name: Name of the dataset.
        layout: Annotation files of each split.
        split: The only split to keep; None keeps all. All are read: the classes are known only then.
        report: Called with each fault; the entry is skipped if it returns.

    Raises:
        DatasetError: If there is no object in the dataset.
    """
    parsed = {key: list(_parse(paths, report)) for key, paths in layout.items()}
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
    reader = _Reader({object_name: label for label, object_name in enumerate(class_names)}, report)
    splits = {
        key: tuple(image for path, root in documents if (image := reader.image(path, root)) is not None)
        for key, documents in parsed.items()
    }
    return ReadDataset(tuple(class_names), only_split(splits, split, name))


class _Reader:
    """Turn documents into records, with ids by counting."""

    def __init__(self, labels: Mapping[str, int], report: Reporter) -> None:
        self.labels = labels
        self.report = report
        self.images = 0
        self.objects = 0
        self.folders: dict[Path, dict[str, Path]] = {}  # folder → stem → image file

    def image(self, path: Path, root: Element) -> ImageRecord | None:
        id = self.images
        self.images += 1
        image_path = self._image_path(path, root)
        try:
            height, width = (int(float(_text(root, f"size/{side}") or 0)) for side in ("height", "width"))
            if not (height and width):
                height, width = upright_size(image_path)
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

    def _image_path(self, path: Path, root: Element) -> Path:
        """Return the image of an annotation file: the file with the same stem, else the file it names."""
        beside = path.parent.parent / "JPEGImages" if path.parent.name == "Annotations" else path.parent
        folder = beside if beside.is_dir() else path.parent.parent / "images"
        if folder not in self.folders:
            self.folders[folder] = {file.stem: file for file in image_files(folder)}
        named = Path(_text(root, "filename").replace("\\", "/")).name or f"{path.stem}.jpg"
        return self.folders[folder].get(path.stem, folder / named)


def _annotation_folders(folder: Path) -> Iterator[Path]:
    for pattern in ("Annotations", "*/Annotations", "*/*/Annotations"):
        yield from (path for path in folder.glob(pattern) if path.is_dir())


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Return the splits that `ImageSets/Main` lists; `trainval` counts only without `train`."""
    splits: dict[str, list[Path]] = {}
    for split, names in {"train": ("train", "trainval"), "val": ("val",), "test": ("test",)}.items():
        for name in names:
            list_file = folder.parent / "ImageSets" / "Main" / f"{name}.txt"
            if list_file.is_file() and split not in splits:
                lines = list_file.read_text(encoding="utf-8").splitlines()
                splits[split] = [folder / f"{line.split()[0]}.xml" for line in lines if line.strip()]
    return splits


def _parse(paths: list[Path], report: Reporter) -> Iterator[tuple[Path, Element]]:
    for path in paths:
        try:
            yield path, ElementTree.parse(path).getroot()
        except OSError as error:
            report(Finding("annotations-missing", f"cannot be read: {error.strerror}", path))
        except ElementTree.ParseError as error:
            report(Finding("annotation-malformed", f"not XML: {error}", path))


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
