"""Run-length encoding against pycocotools; panoptic colors against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from transformers_detr.model.coco_masks_detr import decode_rle, encode_rle, ids_to_rgb, rgb_to_ids


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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
@pytest.mark.parametrize("mask", list(some_masks()), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_rle_is_what_pycocotools_writes_and_reads(mask):
    coco = pytest.importorskip("pycocotools.mask")
    ours = encode_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert ours == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert (coco.decode(ours).astype(bool) == mask).all()
    assert coco.area(ours) == mask.sum()
    assert (decode_rle(theirs) == mask).all()


@pytest.mark.parametrize("mask", list(some_masks()), ids=lambda mask: "x".join(map(str, mask.shape)))
def test_rle_round_trip(mask):
    assert (decode_rle(encode_rle(mask)) == mask).all()


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
