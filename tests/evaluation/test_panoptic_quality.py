"""Panoptic quality against the golden numbers of COCO's own scorer, and against small cases worked by hand."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
from PIL import Image

from transformers_detr.evaluation.panoptic_quality import PanopticMap, count_segments, panoptic_quality
from transformers_detr.model.coco_masks_detr import rgb_to_ids

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 9, "name": "sky", "isthing": 0},
]


def panoptic_map(rows: list[str], category_of: dict[int, int], crowds: tuple[int, ...] = ()) -> PanopticMap:
    ids = np.array([[int(pixel) for pixel in row] for row in rows])
    return PanopticMap(5, ids, category_of, frozenset(crowds))


def read_map(annotation, folder) -> PanopticMap:
    with Image.open(folder / annotation["file_name"]) as image:
        ids = rgb_to_ids(image.convert("RGB"))
    segments = annotation["segments_info"]
    crowds = frozenset(segment["id"] for segment in segments if segment.get("iscrowd"))
    return PanopticMap(annotation["image_id"], ids, {s["id"]: s["category_id"] for s in segments}, crowds)


def test_golden_numbers(shared_path, golden_path, golden_json, tmp_path, monkeypatch):
    script = golden_path("perturb_panoptic.py")
    spec = importlib.util.spec_from_file_location("perturb_panoptic", script)
    perturb_panoptic = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(perturb_panoptic)
    annotations = shared_path("data", "coco_panoptic_mini", "annotations")
    truth_json = annotations / "panoptic_val2017.json"
    truth_folder = annotations / "panoptic_val2017"
    arguments = ["", "--json", str(truth_json), "--folder", str(truth_folder), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    perturb_panoptic.main()

    truth = json.loads(truth_json.read_text())
    predicted = {
        annotation["image_id"]: annotation
        for annotation in json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    }
    counts = sum(
        count_segments(
            read_map(annotation, truth_folder),
            read_map(predicted[annotation["image_id"]], tmp_path),
            truth["categories"],
        )
        for annotation in truth["annotations"]
    )
    quality = panoptic_quality(counts, truth["categories"])

    golden = golden_json("panoptic_quality.json")
    for name in ("All", "Things", "Stuff"):
        score = getattr(quality, name.lower())
        expected = golden["result"][name]
        assert [score.pq, score.sq, score.rq] == pytest.approx(
            [100 * expected[name] for name in ("pq", "sq", "rq")], abs=1e-4
        )
        assert score.classes == expected["n"]
    for score in quality.per_class:
        expected = golden["per_class"][str(score.category_id)]
        if math.isnan(score.pq):  # COCO's scorer writes 0 for a class that occurs nowhere
            assert expected["pq"] == expected["rq"] == 0
            assert score.true_positives + score.false_positives + score.false_negatives == 0
        else:
            assert [score.pq, score.sq, score.rq] == pytest.approx(
                [100 * expected[name] for name in ("pq", "sq", "rq")], abs=1e-4
            )


def test_the_truth_itself_is_perfect():
    truth = panoptic_map(["1199", "1199", "2200"], {1: 1, 2: 2, 9: 9})
    quality = panoptic_quality(count_segments(truth, truth, CATEGORIES), CATEGORIES)
    assert (quality.all.pq, quality.all.sq, quality.all.rq, quality.all.classes) == (100, 100, 100, 3)
    assert (quality.things.classes, quality.stuff.classes) == (2, 1)


def test_iou_of_half_is_no_match_and_void_is_left_out_of_the_union():
    truth = panoptic_map(["1111", "0000"], {1: 1})
    half = panoptic_map(["1100", "0000"], {1: 1})
    assert count_segments(truth, half, CATEGORIES)[0].tolist() == [0, 0, 1, 1]
    three_quarters_and_void = panoptic_map(["1110", "1111"], {1: 1})
    assert count_segments(truth, three_quarters_and_void, CATEGORIES)[0].tolist() == [0.75, 1, 0, 0]


def test_a_segment_on_void_or_on_a_crowd_of_its_class_is_no_mistake():
    truth = panoptic_map(["1199", "0000"], {1: 1, 9: 9}, crowds=(1,))
    on_crowd = panoptic_map(["1199", "0000"], {1: 1, 9: 9})
    assert count_segments(truth, on_crowd, CATEGORIES).tolist() == [[0] * 4, [0] * 4, [1, 1, 0, 0]]
    on_crowd_of_another_class = panoptic_map(["1199", "0000"], {1: 2, 9: 9})
    assert count_segments(truth, on_crowd_of_another_class, CATEGORIES)[1].tolist() == [0, 0, 1, 0]
    on_void = panoptic_map(["0099", "2222"], {2: 2, 9: 9})
    assert count_segments(truth, on_void, CATEGORIES)[1].tolist() == [0, 0, 0, 0]


def test_an_image_without_prediction_counts_as_missed():
    truth = panoptic_map(["1122", "9999"], {1: 1, 2: 2, 9: 9}, crowds=(2,))
    counts = count_segments(truth, None, CATEGORIES)
    assert counts[:, 3].tolist() == [1, 0, 1]
    assert counts.sum() == 2


def test_a_class_that_occurs_nowhere_is_not_averaged():
    truth = panoptic_map(["11", "11"], {1: 1})
    quality = panoptic_quality(count_segments(truth, truth, CATEGORIES), CATEGORIES)
    assert quality.all.classes == 1
    assert math.isnan(quality.stuff.pq)
    assert math.isnan(quality.per_class[1].pq)


def test_unfit_predictions_are_refused():
    truth = panoptic_map(["11", "11"], {1: 1})
    with pytest.raises(ValueError, match=r"image 5 of size \(1, 2\) does not fit"):
        count_segments(truth, panoptic_map(["11"], {1: 1}), CATEGORIES)
    with pytest.raises(ValueError, match="segment 2 of the map is not listed"):
        count_segments(truth, panoptic_map(["12", "11"], {1: 1}), CATEGORIES)
    with pytest.raises(ValueError, match="segment 2 has no pixel"):
        count_segments(truth, panoptic_map(["11", "11"], {1: 1, 2: 1}), CATEGORIES)
    with pytest.raises(ValueError, match="segment 1 has the unknown category 7"):
        count_segments(truth, panoptic_map(["11", "11"], {1: 7}), CATEGORIES)
