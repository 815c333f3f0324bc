"""The size rule, against the original's table."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from transformers.image_utils import SizeDict as StockSizeDict

from transformers_detr.model.resize_detr import SizeDict, image_sizes, optional_sizes, read_size, resized_size


def test_sizes_equal_the_originals(golden_json):
    rows = golden_json("resize_sizes.json")
    refused = 0
    for row in rows:
        size = read_size({"shortest_edge": row["size"], "longest_edge": row["max_size"]})
        if row["result_height_width"] is None:
            refused += 1
            with pytest.raises(ValueError, match=r"^photo: is too elongated \(1×3000, .* would have no pixels"):
                resized_size(row["height"], row["width"], size, "photo")
        else:
            assert resized_size(row["height"], row["width"], size) == tuple(row["result_height_width"]), row
    assert len(rows) > 90
    assert refused == 1


def test_the_longest_edge_alone_is_that_of_the_table_transformer(golden_json):
    rows = golden_json("longest_edge_sizes.json")["rows"]
    for height, width, edge, expected in rows:
        assert resized_size(height, width, read_size({"longest_edge": edge})) == tuple(expected)
    assert len(rows) == 30


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        # worked by hand from the paper's rule; 800 × 1334 would be 1334 long, so the shorter side shrinks
        (480, 640, {"shortest_edge": 800, "longest_edge": 1333}, (800, 1066)),
        (800, 1334, {"shortest_edge": 800, "longest_edge": 1333}, (799, 1332)),
        (480, 640, {"shortest_edge": 960}, (960, 1280)),
        (480, 640, {"longest_edge": 1280}, (960, 1280)),
        (799, 600, {"longest_edge": 800}, (800, 601)),
        (480, 640, {"height": 7, "width": 9}, (7, 9)),
        (480, 640, {"max_height": 240, "max_width": 400}, (240, 320)),
        (480, 640, {"max_height": 480, "max_width": 320}, (240, 320)),
    ],
)
def test_every_form_of_size(height, width, size, expected):
    assert resized_size(height, width, read_size(size)) == expected


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        (480, None, {"shortest_edge": 480, "longest_edge": 1333}),
        (480, 600, {"shortest_edge": 480, "longest_edge": 600}),
        ({"shortest_edge": 480}, None, {"shortest_edge": 480}),
        ({"shortest_edge": 480, "longest_edge": 1333}, 600, {"shortest_edge": 480, "longest_edge": 600}),
        ({"height": 3, "width": 4}, 600, {"height": 3, "width": 4}),
        ({"height": 3, "width": 4, "shortest_edge": None}, None, {"height": 3, "width": 4}),
        ((3, 4), None, {"height": 3, "width": 4}),
        ([3, 4], None, {"height": 3, "width": 4}),
        (StockSizeDict(height=3, width=4), None, {"height": 3, "width": 4}),
    ],
)
def test_read_size(size, max_size, expected):
    assert read_size(size, max_size) == expected


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 5}, "height and width"),
        ((1, 2, 3), "height and width"),
        ({"height": 0, "width": 5}, "height must be a positive whole number, got 0"),
        ({"height": 2.5, "width": 5}, r"got 2\.5"),
        (True, "got True"),
    ],
)
def test_other_sizes_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        read_size(size)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (1, 1000, {"longest_edge": 1000}, (1, 1000)),
        (1000, 1, {"longest_edge": 1000}, (1000, 1)),
        (1, 1000, {"longest_edge": 400}, None),
        (1000, 1, {"longest_edge": 400}, None),
        (480, 640, {"height": 1, "width": 1}, (1, 1)),
    ],
)
def test_a_side_may_have_one_pixel_but_not_none(height, width, size, expected):
    if expected is not None:
        assert resized_size(height, width, read_size(size)) == expected
        return
    with pytest.raises(ValueError, match=r"^image: is too elongated"):
        resized_size(height, width, read_size(size))


def test_refusals_name_size_and_list_its_forms():
    forms = "shortest_edge and longest_edge, or shortest_edge, or longest_edge, or height and width, or max_height and"
    with pytest.raises(ValueError, match=rf"^size must be a number, \(height, width\), or give {forms} max_width; got"):
        read_size({"height": 5})
    with pytest.raises(ValueError, match=r"^pad_size must be .*'third number': 3"):
        read_size((1, 2, 3), name="pad_size")


def test_sizes_of_images_are_refused_with_their_numbers():
    with pytest.raises(ValueError, match=r"^target_sizes\[0\] must be .* got \[0, 5\]"):
        image_sizes(torch.tensor([[0, 5]]), 1)
    with pytest.raises(ValueError, match=r"^target_sizes\[0\] must be"):
        image_sizes([SimpleNamespace(height=5)], 1)
    with pytest.raises(ValueError, match=r"^masks must hold"):
        optional_sizes([(1, 2)], 2, "masks")


def test_sizes_of_ours_are_read_as_they_are():
    assert read_size(SizeDict(height=3, width=4)) == {"height": 3, "width": 4}
    with pytest.raises(AttributeError, match="depth"):
        _ = SizeDict(height=3, width=4).depth


def test_size_reads_in_both_manners_and_survives_copies():
    size = read_size(480)
    for copied in (size, copy.deepcopy(size), pickle.loads(pickle.dumps(size))):
        assert copied["shortest_edge"] == copied.shortest_edge == 480
        assert copied.height is None
        assert "height" not in copied
    assert json.loads(json.dumps(size)) == size
    with pytest.raises(AttributeError):
        _ = size.depth
