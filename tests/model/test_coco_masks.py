"""Polygons and run-length encoding against pycocotools; panoptic colors against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from transformers_detr.model.coco_masks_detr import (
    decode_rle,
    encode_rle,
    ids_to_rgb,
    polygon_problem,
    polygons_to_mask,
    rgb_to_ids,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools


def some_masks():
    rng = np.random.default_rng(0)
    yield np.zeros((5, 7), bool)
    yield np.ones((5, 7), bool)
    yield np.ones((1, 1), bool)
    for height, width, share in [(13, 29, 0.5), (480, 640, 0.01), (3, 1000, 0.9), (1, 9, 0.5)]:
        yield rng.random((height, width)) < share
    blob = np.zeros((700, 900), bool)  # long runs: several groups of five bits
    blob[100:600, 200:500] = True
    blob[50:120, 400:899] = True
    yield blob


@pytest.mark.parametrize("mask", list(some_masks()), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_rle_is_what_pycocotools_writes_and_reads(mask):
    ours = encode_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert (coco.decode(ours).astype(bool) == mask).all()
    assert coco.area(ours) == mask.sum()
    assert (decode_rle(theirs) == mask).all()


@pytest.mark.parametrize("mask", list(some_masks()), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_rle_round_trip(mask):
    assert (decode_rle(encode_rle(mask)) == mask).all()


@pytest.mark.parametrize("seed", range(20))
def test_random_run_lengths_equal_pycocotools(seed):
    """Compressed and uncompressed, from single pixels to long runs."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        height, width = map(int, rng.integers(1, 200, 2))
        bounds = np.sort(rng.integers(0, height * width + 1, int(rng.integers(0, 60))))
        runs = np.diff([0, *bounds, height * width]).tolist()
        theirs = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        expected = coco.decode(theirs).astype(bool)
        assert (decode_rle({"size": [height, width], "counts": runs}) == expected).all()
        assert (decode_rle(theirs) == expected).all()
        assert (coco.decode(encode_rle(expected)) == expected).all()


def random_polygons(rng, height, width):
    """Polygons of one object: whole and broken coordinates, inside the image and far beyond it, self-intersecting."""
    polygons = []
    for _ in range(int(rng.integers(1, 4))):
        points = rng.normal(0.5, rng.choice([0.1, 0.4, 2.0]), (int(rng.integers(3, 12)), 2)) * (width, height)
        polygons.append(np.round(points, int(rng.integers(0, 3))).ravel().tolist())
    return polygons


@pytest.mark.parametrize("seed", range(20))
def test_random_polygons_equal_pycocotools(seed):
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(50):
        height, width = map(int, rng.integers(1, 150, 2))
        polygons = random_polygons(rng, height, width)
        mask = polygons_to_mask(polygons, height, width)
        assert mask.dtype == bool
        assert (mask == coco.decode(coco.merge(coco.frPyObjects(polygons, height, width)))).all()
        covered += mask.any()
    assert covered > 25


def test_polygons_are_a_union():
    square, overlapping, apart = [1, 1, 5, 1, 5, 4, 1, 4], [3, 2, 7, 2, 7, 6, 3, 6], [8, 0, 9, 0, 9, 1, 8, 1]
    expected = np.zeros((8, 10), bool)
    expected[1:4, 1:5] = expected[2:6, 3:7] = expected[0, 8] = True
    assert (polygons_to_mask([square, overlapping, apart], 8, 10) == expected).all()


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([1, 2, 30, 40], "even count of at least 6 numbers, got 4"),  # a box to faster-coco-eval
        ([1, 2], "got 2"),  # nothing to faster-coco-eval
        ([], "got 0"),
        ([1, 2, 3, 4, 5, 6, 7], "got 7"),
        ([1, 2, 3, 4, 5, np.nan], "finite numbers, got nan"),
        ([1, 2, 3, -np.inf, 5, 6], "finite numbers, got -inf"),
        ([1, 2, 3, 4, 5, 10**400], "finite numbers, got 1000"),
        ([1, 2, 3, 4, 5, None], "finite numbers, got None"),
        ([[1, 2], [3, 4], [5, 6], [7, 8], [9, 1], [2, 3]], r"finite numbers, got \[1, 2\]"),
        (1, "list of polygons, got 1 in it"),
        ("123456", "list of polygons, got '123456' in it"),
    ],
)
def test_wrong_polygons_are_refused(polygon, message):
    right = [1, 1, 5, 1, 5, 4]
    assert polygon_problem(right) is None
    with pytest.raises(ValueError, match=message):
        polygons_to_mask([right, polygon], 50, 50)
    with pytest.raises(ValueError, match="segmentation is empty"):
        polygons_to_mask([], 50, 50)


def test_uncompressed_runs_go_down_the_columns():
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]


def test_bad_rle_is_refused():
    with pytest.raises(ValueError, match=r"cover 3 pixels, but size \[2, 3\] has 6"):
        decode_rle({"size": [2, 3], "counts": [1, 2]})
    with pytest.raises(ValueError, match="' '"):
        decode_rle({"size": [2, 3], "counts": "0 1"})
    with pytest.raises(ValueError, match="middle of a number"):
        decode_rle({"size": [2, 3], "counts": chr(48 + 0x21)})
    with pytest.raises(ValueError, match=r"\(3,\)"):
        encode_rle(np.ones(3))


def test_panoptic_colors():
    ids = np.array([[0, 1, 255], [256, 65536, 256**3 - 1]])
    assert ids_to_rgb(ids).tolist() == [
        [[0, 0, 0], [1, 0, 0], [255, 0, 0]],
        [[0, 1, 0], [0, 0, 1], [255, 255, 255]],
    ]
    assert (rgb_to_ids(ids_to_rgb(ids)) == ids).all()
    with pytest.raises(ValueError, match="16777216"):
        ids_to_rgb([[256**3]])
    with pytest.raises(ValueError, match=r"-1…0"):
        ids_to_rgb([[-1, 0]])
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        rgb_to_ids(np.zeros((4, 4)))
