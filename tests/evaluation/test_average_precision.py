"""Box and mask AP against the official text output and against pycocotools."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from evaluation.oracles import as_coco, perturbed_results, pycocotools_evaluation, random_dataset
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.predictions import ImagePrediction, from_coco_results


def assert_equal_to_pycocotools(dataset, results, kind):
    scores = score_detections(dataset, from_coco_results(results), kind)
    oracle = pycocotools_evaluation(dataset, results, kind)
    assert as_coco(scores.summary.values()) == pytest.approx(oracle.stats.tolist(), abs=1e-9)

    precision = oracle.eval["precision"]  # (T, R, K, areas, counts)
    np.testing.assert_allclose(np.nan_to_num(scores.precision, nan=-1), precision[:, :, :, 0, 2], atol=1e-9)
    for k, category in enumerate(scores.per_class):
        for name, area in (("ap", 0), ("ap_small", 1), ("ap_medium", 2), ("ap_large", 3)):
            # a class is defined for all thresholds and recalls or for none, so the plain mean is −1 or AP
            assert as_coco([getattr(category, name)])[0] == pytest.approx(precision[:, :, k, area, 2].mean(), abs=1e-9)
        assert as_coco([category.ap50])[0] == pytest.approx(precision[0, :, k, 0, 2].mean(), abs=1e-9)
        assert as_coco([category.recall])[0] == pytest.approx(oracle.eval["recall"][:, k, 0, 2].mean(), abs=1e-9)
    return scores


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_official_numbers_in_all_digits(shared_path, kind):
    dataset = json.loads(shared_path("data", "evaluator", "instances_val2014_100.json").read_text())
    results = json.loads(shared_path("data", "evaluator", f"instances_val2014_fake{kind}100_results.json").read_text())
    official = shared_path("data", "evaluator", "val2014_fake_eval_res.txt").read_text()
    block = official.split(f"type={kind}")[1].split("type=")[0]
    expected = re.findall(r"\] = (\d\.\d+)", block)
    assert len(expected) == 12

    scores = assert_equal_to_pycocotools(dataset, results, kind)
    assert [f"{value:.3f}" for value in as_coco(scores.summary.values())] == expected


def test_boxes_of_masks_without_boxes(shared_path):
    """As pycocotools takes them."""
    dataset = json.loads(shared_path("data", "evaluator", "instances_val2014_100.json").read_text())
    results = json.loads(shared_path("data", "evaluator", "instances_val2014_fakesegm100_results.json").read_text())
    scores = score_detections(dataset, from_coco_results(results), "bbox")
    expected = pycocotools_evaluation(dataset, results, "bbox").stats
    # pycocotools sorts these boxes into sizes by the area of their masks: only the numbers of all sizes compare
    everything = [0, 1, 2, 6, 7, 8]
    ours = as_coco(scores.summary.values())
    assert [ours[i] for i in everything] == pytest.approx([expected[i] for i in everything], abs=1e-9)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_mini_with_perturbed_ground_truth(shared_path, kind):
    dataset = json.loads(next(shared_path("data", "coco_mini", "annotations").glob("instances*.json")).read_text())
    assert len(dataset["images"]) == 40
    with_objects = {annotation["image_id"] for annotation in dataset["annotations"]}
    assert len(with_objects) < 40
    assert any(annotation["iscrowd"] for annotation in dataset["annotations"])
    scores = assert_equal_to_pycocotools(dataset, perturbed_results(dataset, 0, masks=kind == "segm"), kind)
    assert 20 < scores.summary["AP"] < 90


@pytest.mark.parametrize("seed", range(4))
def test_generated_boxes_equal_pycocotools(seed):
    dataset = random_dataset(seed)
    assert_equal_to_pycocotools(dataset, perturbed_results(dataset, seed), "bbox")


def test_more_than_a_hundred_detections_count_when_asked():
    dataset = random_dataset(7, images=2)
    rng = np.random.default_rng(0)
    noise = [
        {"image_id": 1, "category_id": 1, "bbox": [*rng.uniform(0, 300, 2), 20.0, 20.0], "score": 0.9}
        for _ in range(120)
    ]
    exact = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.1}
        for a in dataset["annotations"]
    ]
    results = noise + exact
    scores = {count: score_detections(dataset, from_coco_results(results), "bbox", count) for count in (100, 300)}
    assert scores[300].max_detections == (1, 10, 300)
    assert list(scores[300].summary)[6:9] == ["AR1", "AR10", "AR300"]
    assert scores[300].summary["AR300"] > scores[100].summary["AR100"]
    for count, score in scores.items():
        precision = pycocotools_evaluation(dataset, results, "bbox", count).eval["precision"][..., 0, 2]
        assert score.summary["AP"] == pytest.approx(100 * precision[precision > -1].mean(), abs=1e-7)


def test_ids_of_annotations_do_not_matter():
    """pycocotools takes an object with id 0 for "not matched"."""
    dataset = random_dataset(3)
    first = {**dataset["annotations"][0], "iscrowd": 0}
    dataset["annotations"][0] = first
    found = {
        "image_id": first["image_id"],
        "category_id": first["category_id"],
        "bbox": first["bbox"],
        "score": 1.0,
    }
    results = [found, *perturbed_results(dataset, 3)]
    renumbered = {**dataset, "annotations": [{**a, "id": a["id"] - 1} for a in dataset["annotations"]]}
    scores = [score_detections(d, from_coco_results(results)).summary for d in (dataset, renumbered)]
    assert scores[0] == pytest.approx(scores[1], nan_ok=True, abs=0)
    spoilt = pycocotools_evaluation(renumbered, results, "bbox").stats[0]
    assert 100 * spoilt != pytest.approx(scores[1]["AP"], abs=1e-7)


def test_ground_truth_is_not_changed():
    dataset = random_dataset(2)
    before = json.dumps(dataset)
    score_detections(dataset, from_coco_results(perturbed_results(dataset, 2)))
    assert json.dumps(dataset) == before


def test_nothing_found_and_nothing_to_find():
    dataset = random_dataset(5)
    found_nothing = score_detections(dataset, [ImagePrediction(1)])
    assert found_nothing.summary["AP"] == 0
    empty = score_detections({**dataset, "annotations": []}, from_coco_results(perturbed_results(dataset, 5)))
    assert all(math.isnan(value) for value in empty.summary.values())


def test_objects_are_counted_without_crowds():
    dataset = random_dataset(1)
    counted = sum(category.objects for category in score_detections(dataset, []).per_class)
    assert counted == sum(not annotation["iscrowd"] for annotation in dataset["annotations"])
    assert counted < len(dataset["annotations"])


def test_unusable_predictions_are_refused():
    dataset = random_dataset(0)
    box = from_coco_results([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}])
    with pytest.raises(ValueError, match="image 99: not in the ground truth"):
        score_detections(dataset, [ImagePrediction(99)])
    with pytest.raises(ValueError, match=r"image 1: .* predicted twice"):
        score_detections(dataset, box * 2)
    with pytest.raises(ValueError, match="image 1: has no masks"):
        score_detections(dataset, box, "segm")
    with pytest.raises(ValueError, match="max_detections must be above 10"):
        score_detections(dataset, box, max_detections=10)
    foreign = from_coco_results([{"image_id": 1, "category_id": 77, "bbox": [0, 0, 9, 9], "score": 0.5}])
    with pytest.raises(ValueError, match=r"no detection has a category .* \[77\]"):
        score_detections(dataset, foreign)
