"""Matches at one IoU, against pycocotools where it has the same thing, and against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.oracles import perturbed_results, pycocotools_evaluation, random_dataset
from transformers_detr.evaluation.matching import assign, match_images
from transformers_detr.evaluation.operating_points import (
    best_operating_point,
    confusion_matrix,
    precision_recall,
    precision_recall_by_class,
    score_histogram,
    worst_images,
)
from transformers_detr.evaluation.predictions import from_coco_results


def dataset_of(*objects, images=1):
    """Objects as (image id, category id, box x y w h, is crowd)."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": 1.0, "iscrowd": int(crowd)}
            for n, (image, category, box, crowd) in enumerate(objects, 1)
        ],
    }


def found(*detections):
    """Detections as (image id, category id, box, score)."""
    return from_coco_results(
        [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in detections]
    )


BOX, FAR, HALF = [10, 10, 20, 20], [60, 60, 20, 20], [10, 10, 20, 13]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou_threshold", [0.5, 0.75])
def test_matches_are_those_of_pycocotools(seed, iou_threshold):
    """The same detections are true, false and forgiven as in pycocotools' own record of each image."""
    dataset = random_dataset(seed)
    results = perturbed_results(dataset, seed)
    matches = {m.image_id: m for m in match_images(dataset, from_coco_results(results), iou_threshold)}
    oracle = pycocotools_evaluation(dataset, results, "bbox")
    at = np.flatnonzero(np.isclose(oracle.params.iouThrs, iou_threshold))[0]
    compared = 0
    for entry in oracle.evalImgs:
        if entry is None or entry["aRng"] != oracle.params.areaRng[0]:
            continue
        match = matches[entry["image_id"]]
        chosen = match.detected == entry["category_id"]
        np.testing.assert_array_equal(match.scores[chosen], entry["dtScores"])
        np.testing.assert_array_equal(match.on_crowd[chosen], entry["dtIgnore"][at])
        true = (entry["dtMatches"][at] > 0) & ~entry["dtIgnore"][at].astype(bool)
        np.testing.assert_array_equal(match.on_object[chosen], true)
        compared += len(entry["dtScores"])
    assert compared == len(results)


@pytest.mark.parametrize("seed", range(3))
def test_curve_gives_the_interpolated_precision_of_pycocotools(seed):
    dataset = random_dataset(seed)
    # without equal scores, of which pycocotools cuts the list anywhere
    results = perturbed_results(dataset, seed)
    for position, score in enumerate(np.random.default_rng(seed).permutation(len(results))):
        results[position]["score"] = (float(score) + 1) / (len(results) + 1)
    matches = match_images(dataset, from_coco_results(results))
    oracle = pycocotools_evaluation(dataset, results, "bbox")
    curves = precision_recall_by_class(matches, [category["id"] for category in dataset["categories"]])
    for k, category in enumerate(dataset["categories"]):
        expected = oracle.eval["precision"][0, :, k, 0, 2]
        curve = curves[category["id"]]
        if (expected < 0).any():
            assert np.isnan(curve.recall).all()
            continue
        envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
        position = np.searchsorted(curve.recall, oracle.params.recThrs, side="left")
        interpolated = np.append(envelope, 0.0)[position]
        np.testing.assert_allclose(interpolated, expected, atol=1e-9)


def test_each_object_is_found_once_and_a_crowd_by_any_number():
    iou = np.array([[0.9, 0.8], [0.7, 0.6], [0.6, 0.9]])
    anything = np.ones_like(iou, dtype=bool)
    assert assign(iou, anything, np.array([False, False]), 0.5).tolist() == [0, 1, -1]
    assert assign(iou, anything, np.array([True, False]), 0.5).tolist() == [1, 0, 0]
    assert assign(iou, anything, np.array([False, False]), 0.75).tolist() == [0, -1, 1]
    assert assign(np.zeros((2, 0)), np.zeros((2, 0), bool), np.zeros(0, bool), 0.5).tolist() == [-1, -1]


def test_best_threshold():
    dataset = dataset_of((1, 1, BOX, False), (1, 1, FAR, False))
    predictions = found((1, 1, BOX, 0.9), (1, 1, [40, 0, 9, 9], 0.6), (1, 1, FAR, 0.5), (1, 1, [0, 40, 9, 9], 0.2))
    curve = precision_recall_by_class(match_images(dataset, predictions), [1])[1]
    assert curve.thresholds.tolist() == [0.9, 0.6, 0.5, 0.2]
    assert curve.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4]
    assert curve.recall.tolist() == [1 / 2, 1 / 2, 1, 1]
    best = best_operating_point(curve)
    assert (best.threshold, best.precision, best.recall) == (0.5, 2 / 3, 1)
    assert best.f1 == pytest.approx(0.8)


def test_equal_scores_are_kept_or_dropped_together():
    dataset = dataset_of((1, 1, BOX, False))
    curve = precision_recall(match_images(dataset, found((1, 1, FAR, 0.5), (1, 1, BOX, 0.5))))
    assert (curve.thresholds.tolist(), curve.precision.tolist(), curve.recall.tolist()) == ([0.5], [0.5], [1.0])


def test_nothing_to_find_or_nothing_found_has_no_best_threshold():
    nothing_found = precision_recall(match_images(dataset_of((1, 1, BOX, False)), []))
    nothing_there = precision_recall(match_images(dataset_of(), found((1, 1, BOX, 0.5))))
    assert math.isnan(best_operating_point(nothing_found).threshold)
    assert math.isnan(best_operating_point(nothing_there).threshold)
    assert len(precision_recall([]).f1) == 0


def test_confusions():
    dataset = dataset_of(
        (1, 1, BOX, False), (1, 2, FAR, False), (2, 1, BOX, False), (2, 2, [0, 0, 90, 90], True), images=2
    )
    predictions = found(
        (1, 1, BOX, 0.9),  # right
        (1, 1, FAR, 0.8),  # a dog taken for a cat
        (1, 2, [30, 80, 9, 9], 0.7),  # nothing there
        (2, 1, BOX, 0.4),  # right, but below the threshold
        (2, 2, [40, 40, 9, 9], 0.9),  # on a crowd of its class
    )
    matrix = confusion_matrix(match_images(dataset, predictions), [1, 2], threshold=0.5)
    assert matrix.tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_a_right_class_is_preferred_to_a_better_overlap():
    dataset = dataset_of((1, 1, BOX, False), (1, 2, HALF, False))
    predictions = found((1, 1, HALF, 0.9), (1, 2, BOX, 0.8))
    assert confusion_matrix(match_images(dataset, predictions), [1, 2], 0.5)[:2, :2].tolist() == [[1, 0], [0, 1]]


def test_histogram_counts_every_detection_but_those_on_crowds():
    dataset = dataset_of((1, 1, BOX, False), (1, 2, [0, 0, 90, 90], True))
    predictions = found((1, 1, BOX, 1.0), (1, 1, FAR, 0.0), (1, 1, FAR, 0.5), (1, 2, FAR, 0.5))
    right, wrong = score_histogram(match_images(dataset, predictions), bins=4)
    assert (right.tolist(), wrong.tolist()) == ([0, 0, 0, 1], [1, 0, 1, 0])


def test_worst_images_come_first():
    dataset = dataset_of((1, 1, BOX, False), (2, 1, BOX, False), (2, 1, FAR, False), (3, 1, BOX, False), images=3)
    predictions = found((1, 1, BOX, 0.9), (2, 2, BOX, 0.9), (2, 2, FAR, 0.1), (3, 1, BOX, 0.3))
    worst = worst_images(match_images(dataset, predictions), threshold=0.5, count=5)
    assert [(w.matches.image_id, w.missed, w.false_alarms) for w in worst] == [(2, [0, 1], [0]), (3, [0], [])]
    assert len(worst_images(match_images(dataset, predictions), threshold=0.5, count=1)) == 1
