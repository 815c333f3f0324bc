"""COCO's mask formats: polygons, run-length encoding (RLE) and color-coded panoptic images.

RLE is implemented in NumPy, so that results can be exported without further packages. pycocotools reads what is written
here, and the reverse. Polygons are rasterized by faster-coco-eval, bit for bit as pycocotools does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

LARGEST_SEGMENT_ID = 256**3 - 1
"""A panoptic image has three bytes per pixel."""

LARGEST_RUN_BITS = 60
"""Longer numbers in compressed run lengths are damaged; reading them would take quadratic time."""

SMALLEST_POLYGON = 6
"""Numbers of a polygon with three points."""


class CocoRle(TypedDict):
    """A mask in COCO's compressed run-length encoding, ready for JSON."""

    size: list[int]
    counts: str


def encode_rle(mask: npt.ArrayLike) -> CocoRle:
    """Write a mask in COCO's compressed run-length encoding.

    Runs go down the columns. Those of stock Transformers go along the rows, which pycocotools cannot read.

    Args:
        mask: `(H, W)`, nonzero where the object is.

    Returns:
        `size` as `[H, W]` and `counts` as text, equal to what pycocotools writes.

    Raises:
        ValueError: If the mask does not have two dimensions.
    """
    pixels = np.asarray(mask).astype(bool)
    if pixels.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {pixels.shape}")
    column_major = pixels.ravel(order="F")
    changes = np.flatnonzero(column_major[1:] != column_major[:-1]) + 1
    bounds = np.concatenate([[0], changes, [column_major.size]])
    runs = np.diff(bounds).tolist() if column_major.size else []
    if column_major.size and column_major[0]:
        runs.insert(0, 0)  # the first run is always background
    return {"size": [int(side) for side in pixels.shape], "counts": _compress(runs)}


def decode_rle(rle: CocoRle | dict[str, object]) -> npt.NDArray[np.bool_]:
    """Read a mask from COCO's run-length encoding, compressed or not.

    Args:
        rle: `size` as `[H, W]`; `counts` as compressed text or bytes, or as a list of run lengths.

    Returns:
        Mask `(H, W)`.

    Raises:
        ValueError: If the runs do not fill the mask exactly or the text is not run-length encoded.
    """
    height, width = (int(side) for side in rle["size"])  # type: ignore[attr-defined]
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        counts = _decompress(counts.encode() if isinstance(counts, str) else counts)
    runs = np.asarray(counts, dtype=np.int64)
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"RLE runs cover {runs.sum()} pixels, but size {[height, width]} has {height * width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def polygon_problem(polygon: Any) -> str | None:
    """Describe what keeps a value from being a COCO polygon; None if it is one."""
    if not isinstance(polygon, Sequence) or isinstance(polygon, str | bytes):
        return f"segmentation must be an RLE or a list of polygons, got {polygon!r} in it"
    if len(polygon) < SMALLEST_POLYGON or len(polygon) % 2:
        return f"a polygon needs an even count of at least {SMALLEST_POLYGON} numbers, got {len(polygon)}"
    wrong = [number for number in polygon if not _is_finite(number)]
    return f"a polygon must hold finite numbers, got {wrong[0]!r}" if wrong else None


def polygons_to_mask(polygons: Sequence[Sequence[float]], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Rasterize the polygons of one object as COCO does.

    Polygons are checked first: faster-coco-eval would read four numbers as a box and drop shorter polygons silently.

    Args:
        polygons: Each `[x1, y1, x2, y2, …]` in pixels; at least one. The mask is their union.
        height: Height of the image.
        width: Width of the image.

    Returns:
        Mask `(H, W)`.

    Raises:
        ValueError: If there is no polygon, or one is not an even count of at least six finite numbers.
        ImportError: If faster-coco-eval is not installed.
    """
    if not polygons:
        raise ValueError("segmentation is empty")
    for polygon in polygons:
        if problem := polygon_problem(polygon):
            raise ValueError(problem)
    try:  # transformers' check of custom code takes only imports inside `try:` as optional
        from faster_coco_eval.core import mask as run_length
    except ImportError as error:
        raise ImportError("masks from polygons need faster-coco-eval: pip install faster-coco-eval") from error
    numbers = [list(map(float, polygon)) for polygon in polygons]
    return decode_rle(run_length.merge(run_length.frPyObjects(numbers, height, width)))


def ids_to_rgb(segmentation: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Color a map of segment ids as COCO's panoptic images do: id = R + 256 G + 65536 B.

    Args:
        segmentation: `(H, W)` segment ids, 0 for "no segment".

    Returns:
        `(H, W, 3)` colors; save them as PNG.

    Raises:
        ValueError: If an id does not fit into three bytes.
    """
    ids = np.asarray(segmentation).astype(np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() <= LARGEST_SEGMENT_ID:
        raise ValueError(f"segment ids must lie in 0…{LARGEST_SEGMENT_ID}, got {ids.min()}…{ids.max()}")
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def rgb_to_ids(image: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Read the segment ids from the colors of a COCO panoptic image.

    Args:
        image: `(H, W, 3)` bytes.

    Returns:
        `(H, W)` segment ids, 0 for "no segment".

    Raises:
        ValueError: If there are not three colors per pixel.
    """
    colors = np.asarray(image).astype(np.int64)
    if colors.ndim != 3 or colors.shape[-1] != 3:
        raise ValueError(f"a panoptic image must have shape (H, W, 3), got {colors.shape}")
    return colors @ np.array([1, 256, 65536])


def _is_finite(number: Any) -> bool:
    try:
        return not isinstance(number, str) and math.isfinite(float(number))
    except (TypeError, ValueError, OverflowError):
        return False


def _compress(runs: list[int]) -> str:
    """Write run lengths as text: from the fourth on as differences, in groups of five bits, lowest first."""
    text = []
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        while True:
            group = value & 0x1F
            value >>= 5
            # A number ends once only copies of the sign bit would follow.
            ends = value == (-1 if group & 0x10 else 0)
            text.append(chr(48 + (group if ends else group | 0x20)))
            if ends:
                break
    return "".join(text)


def _decompress(text: bytes) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        code = byte - 48
        if not 0 <= code < 64:
            raise ValueError(f"RLE counts hold {chr(byte)!r}, which is not part of COCO's encoding")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:
            if shift > LARGEST_RUN_BITS:
                raise ValueError("RLE counts hold a number that no image has pixels for")
            continue
        if code & 0x10:
            value -= 1 << shift  # negative: the sign bit is the highest bit of the last group
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("RLE counts end in the middle of a number")
    return runs
