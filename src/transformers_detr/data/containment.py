"""Images that leave the folder of their dataset, by `../`, an absolute path or a symbolic link."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from transformers_detr.data.findings import Finding, Reporter

if TYPE_CHECKING:  # the registry of readers is loaded without torch
    from transformers_detr.data.records import ImageRecord

ALLOW_OUTSIDE = "DETR_ALLOW_OUTSIDE"
"""Environment variable: 1 lets datasets name any readable file as an image."""


class Home:
    """Folder that the images of a dataset must lie in; folders linked into it belong to it, single files do not."""

    def __init__(self, source: Path) -> None:
        """Take the dataset's folder; for a file the one above the file's, since images may lie beside that folder."""
        self.folder = (source if source.is_dir() else source.absolute().parent.parent).absolute()
        real = self.folder.resolve()
        # The Hub's cache links the files of a snapshot to a folder beside the snapshots.
        self.real_folder = real.parent.parent if real.parent.name == "snapshots" else real

    def holds(self, path: Path) -> bool:
        """Return whether a file lies in the folder, or need not."""
        try:
            linked = path.is_symlink()
        except OSError:  # a name that no file can have
            linked = False
        if os.environ.get(ALLOW_OUTSIDE) == "1":
            return True
        plain = Path(os.path.normpath(path.absolute()))
        if linked:
            real = path.resolve()
            return any(map(real.is_relative_to, (self.real_folder, plain.parent.resolve())))
        return plain.is_relative_to(self.folder) or path.resolve().is_relative_to(self.real_folder)


def without_outsiders(records: tuple[ImageRecord, ...], home: Home, report: Reporter) -> tuple[ImageRecord, ...]:
    """Report the images that lie outside the dataset, and leave them out."""
    kept = []
    for record in records:
        if record.read_bytes is not None or home.holds(record.path):
            kept.append(record)
        else:
            message = f"{record.path} lies outside {home.folder}; {ALLOW_OUTSIDE}=1 allows it"
            report(Finding("image-outside", message, record.source, record.id))
    return tuple(kept)
