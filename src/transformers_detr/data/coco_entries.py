"""Image and annotation entries of a COCO file as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from transformers_detr.data.field_values import (
    Box,
    Id,
    field,
    optional_number,
    shown,
    stated_size,
    to_box,
    to_id,
    to_text,
)
from transformers_detr.data.file_discovery import split_name, upright_size
from transformers_detr.data.findings import Finding, Reporter
from transformers_detr.data.image_lookup import ImageLookup, is_file
from transformers_detr.data.masks import mask_extent, mask_problem, without_empty
from transformers_detr.data.records import ImageRecord, ObjectRecord


class _EntryError(ValueError):
    """A fault of an annotation entry, with the code of its kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class CocoFileReader:
    """Turn the entries of one file into records.

    Ids need not be integers: others are numbered after the largest integer. Several entries of one image file become
    one image with the objects of all.

    Attributes:
        path: The file.
        labels: Class id of each category id.
        lookup: Finds the images.
        report: Called with each fault; the entry is skipped if it returns.
        folder: Folder of the image found last.
    """

    path: Path
    labels: Mapping[Id, int]
    lookup: ImageLookup
    report: Reporter
    folder: Path | None = None

    def images(self, images: list[Any], annotations: list[Any]) -> tuple[ImageRecord, ...]:
        """Return the images with their objects, in the order of the file."""
        entries, ambiguous = self._image_entries(images)
        records = self._records(entries)
        owners = self._owners(records)
        objects: dict[Id, list[ObjectRecord]] = {id: [] for id in entries}
        ids = _numbers([_id_or_none(entry, "id") for entry in annotations])
        for index, (entry, id) in enumerate(zip(annotations, ids, strict=True)):
            fault = partial(self._report_annotation, index, entry, records)
            try:
                image_id = field(entry, "image_id", to_id)
                if image_id in ambiguous:
                    raise _EntryError("image-id-repeated", f"image id {shown(image_id)} belongs to several images")
                if image_id not in entries:
                    raise _EntryError("image-unlisted", f"image id {shown(image_id)} is not in 'images'")
                item = self._object(entry, id, partial(fault, "field-unreadable"))
            except ValueError as error:
                fault(error.code if isinstance(error, _EntryError) else "annotation-malformed", str(error))
            else:
                objects[owners.get(image_id, image_id)].append(item)
        return tuple(replace(records[id], objects=tuple(objects[id])) for id, owner in owners.items() if id == owner)

    def _image_entries(self, images: list[Any]) -> tuple[dict[Id, dict[str, Any]], set[Id]]:
        """Return the entries by id, and the ids that belong to several files, which no object can be assigned to."""
        entries: dict[Id, dict[str, Any]] = {}
        ambiguous = set()
        for index, entry in enumerate(images):
            try:
                id, name = field(entry, "id", to_id), field(entry, "file_name", to_text)
            except ValueError as error:
                self.report(Finding("annotation-malformed", str(error), self.path, place=f"image entry {index + 1}"))
                continue
            known = entries.setdefault(id, entry | {"file_name": name})["file_name"]
            if known != name:
                message = f"{shown(known)} and {shown(name)} have the same id"
                self.report(Finding("image-id-repeated", message, self.path, _int_or_none(id)))
                ambiguous.add(id)
        return {id: entry for id, entry in entries.items() if id not in ambiguous}, ambiguous

    def _records(self, entries: Mapping[Id, dict[str, Any]]) -> dict[Id, ImageRecord]:
        """Return the images without objects by id."""
        records = {}
        for (id, entry), number in zip(entries.items(), _numbers(list(entries)), strict=True):
            try:
                path = self._image_path(entry["file_name"])
            except LookupError as error:
                self.report(Finding("image-missing", str(error), self.path, number))
                parts = PurePosixPath(entry["file_name"].replace("\\", "/")).parts
                path = self.lookup.root.joinpath(*(part for part in parts if part not in ("/", "..")))
            try:
                height, width = stated_size(entry) or upright_size(path)
            except (OSError, ValueError) as error:
                message = f"no usable 'height' and 'width', and the size of {path} cannot be read: {error}"
                self.report(Finding("annotation-malformed", message, self.path, number))
                continue
            records[id] = ImageRecord(number, path, height, width, (), source=self.path)
        return records

    def _image_path(self, name: str) -> Path:
        """Return the path of an image; most lie in the same folder, which is tried first.

        Raises:
            LookupError: If there is no such image, or several.
        """
        if self.folder is None or not is_file(self.folder / name):
            path = self.lookup.find(name, self.path, split_of_file(self.path))
            depth = len(Path(name).parts)
            self.folder = path.parents[depth - 1] if path.parts[-depth:] == Path(name).parts else None
            return path
        return self.folder / name

    def _owners(self, records: Mapping[Id, ImageRecord]) -> dict[Id, Id]:
        """Return for each image id the one that its objects go to: the first with the same file and size."""
        first: dict[tuple[Path, int, int], Id] = {}
        owners = {}
        for id, record in records.items():
            owners[id] = owner = first.setdefault((record.path, record.height, record.width), id)
            if owner != id:
                message = f"{record.path.name} is image {records[owner].id} too"
                self.report(Finding("image-listed-twice", message, self.path, record.id))
        return owners

    def _object(self, entry: Mapping[str, Any], id: int, unreadable: Callable[[str], None]) -> ObjectRecord:
        """Read one annotation.

        Raises:
            ValueError: If a field is missing or cannot be read, or the class is unknown.
        """
        category_id = field(entry, "category_id", to_id)
        segmentation = without_empty(entry.get("segmentation"))
        box = _box(entry, segmentation)
        if category_id not in self.labels:
            message = f"category id {shown(category_id)} is not in 'categories' ({_shortened(self.labels)})"
            raise _EntryError("category-unknown", message)
        return ObjectRecord(
            id=id,
            label=self.labels[category_id],
            box_xywh_px=box,
            area=optional_number(entry, "area", box[2] * box[3], unreadable),
            iscrowd=bool(optional_number(entry, "iscrowd", 0, unreadable)),
            segmentation=segmentation,
        )

    def _report_annotation(
        self, index: int, entry: Any, images: Mapping[Id, ImageRecord], code: str, message: str
    ) -> None:
        id, image_id = (_id_or_none(entry, key) for key in ("id", "image_id"))
        number = images[image_id].id if image_id is not None and image_id in images else image_id
        place = f"annotation entry {index + 1}"
        self.report(Finding(code, message, self.path, _int_or_none(number), _int_or_none(id), place))


def split_of_file(file: Path) -> str | None:
    """Return the split that the name of an annotation file or of its folder stands for."""
    return split_name(file.stem) or split_name(file.parent.name)


def _box(entry: Mapping[str, Any], segmentation: Any) -> Box:
    """Read the box; without one it is that around the mask."""
    if entry.get("bbox") or segmentation is None:
        return field(entry, "bbox", to_box)
    problem = mask_problem(segmentation)
    if problem is not None:
        raise ValueError(f"no 'bbox', and the segmentation is unusable: {problem}")
    left, top, right, bottom = mask_extent(segmentation)
    return left, top, right - left, bottom - top


def _numbers(ids: Sequence[Id | None]) -> list[int]:
    """Return an integer for each id: itself, or one after the largest for text and None."""
    following = count(max((id for id in ids if isinstance(id, int)), default=-1) + 1)
    texts = {id: next(following) for id in dict.fromkeys(ids) if isinstance(id, str)}
    return [next(following) if id is None else texts[id] if isinstance(id, str) else id for id in ids]


def _id_or_none(entry: Any, key: str) -> Id | None:
    with suppress(ValueError):
        return field(entry, key, to_id)
    return None


def _int_or_none(id: Id | None) -> int | None:
    return id if isinstance(id, int) else None


def _shortened(ids: Iterable[Id]) -> str:
    ordered = sorted(ids, key=lambda id: (isinstance(id, str), id))
    return ", ".join(map(shown, ordered)) if len(ordered) <= 12 else f"{shown(ordered[0])} … {shown(ordered[-1])}"
