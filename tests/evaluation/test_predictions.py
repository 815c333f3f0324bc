"""Prediction files: what is written is read back, bit for bit, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluation.oracles import perturbed_results, random_dataset
from transformers_detr.evaluation.prediction_writer import PredictionLog, read_settings
from transformers_detr.evaluation.predictions import (
    ImagePrediction,
    PanopticFile,
    from_coco_results,
    read_predictions,
    to_coco_results,
    to_json,
)

MASK = {"size": [4, 5], "counts": "12345"}


def prediction(image_id, count=3, **others):
    rng = np.random.default_rng(image_id)
    scores, boxes = rng.random(count), rng.random((count, 4)) * 100
    return ImagePrediction(image_id, scores, rng.integers(0, 9, count), boxes, **others)


def assert_same(first, second):
    assert to_json(first) == to_json(second)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.boxes_xywh, second.boxes_xywh)


def test_json_lines_round_trip(tmp_path):
    segments = PanopticFile("7.png", [{"id": 1, "category_id": 3}])
    predictions = [
        prediction(1),
        prediction(2, masks=[MASK] * 3),
        prediction(3, count=0),
        prediction(4, panoptic=segments),
        ImagePrediction(5, error="no such file"),
    ]
    log = PredictionLog(tmp_path, {"model": "x"})
    log.append(predictions)
    log.finish([5, 4, 3, 2, 1])
    read = list(read_predictions(log.path))
    assert [p.image_id for p in read] == [5, 4, 3, 2, 1]
    for first, second in zip(predictions, read[::-1], strict=True):
        assert_same(first, second)
    assert read[0].error == "no such file"
    assert read[1].panoptic == segments
    assert read_settings(log.path) == {"model": "x"}


def test_coco_results_round_trip(tmp_path):
    results = perturbed_results(random_dataset(0), 0)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    back = list(to_coco_results(read_predictions(file)))
    assert sorted(json.dumps(r, sort_keys=True) for r in back) == sorted(json.dumps(r, sort_keys=True) for r in results)
    with_masks = [{"image_id": 1, "category_id": 2, "score": 0.5, "segmentation": MASK}]
    assert next(iter(to_coco_results(from_coco_results(with_masks))))["segmentation"] == MASK


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"scores": []}', "without image_id"),
        ('{"image_id": 1, "scores": []}', "image 1: boxes_xywh, category_ids missing"),
        ('{"image_id": 1, "scores": [1], "category_ids": [], "boxes_xywh": []}', "image 1: unequal numbers"),
        ('{"image_id": 1, "scores": [NaN], "category_ids": [1], "boxes_xywh": [[1, 2, 3, 4]]}', "not finite"),
        ("{nonsense", "line 2"),
        ("[1]", "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"settings": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 2: ") as caught:
        list(read_predictions(file))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "JSON array"),
        ("[{]", r"results\.json"),
        ('[{"image_id": 1, "score": 1, "bbox": [0, 0, 1, 1]}]', "entry 0: category_id missing"),
        ('[{"image_id": 1, "category_id": 1, "score": 1}]', "bbox or segmentation missing"),
    ],
)
def test_bad_coco_results_are_named(tmp_path, content, reason):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=reason):
        list(read_predictions(file))


def test_a_torn_line_is_forgotten_and_written_again(tmp_path):
    log = PredictionLog(tmp_path, {"model": "x"})
    log.append([prediction(1)])
    log.append([prediction(2)])
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes()[:-20])

    resumed = PredictionLog(tmp_path, {"model": "x"}, resume=True)
    assert resumed.done == {1}
    resumed.append([prediction(1), prediction(2)])
    resumed.finish([1, 2])
    assert [p.image_id for p in read_predictions(resumed.path)] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_a_run_torn_in_its_first_line_begins_anew(tmp_path):
    (tmp_path / "predictions.part0.jsonl").write_text('{"settings": {"mod')
    log = PredictionLog(tmp_path, {"model": "x"}, resume=True)
    log.append([prediction(1)])
    log.finish([1])
    assert read_settings(log.path) == {"model": "x"}


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    log = PredictionLog(tmp_path, {})
    log.append([prediction(1)])
    log.finish([1])
    before = log.path.read_bytes()
    again = PredictionLog(tmp_path, {}, resume=True)
    assert again.done == {1}
    again.finish([1])
    assert again.path.read_bytes() == before


def test_runs_are_not_mixed(tmp_path):
    PredictionLog(tmp_path, {"padding": "exact", "size": 800}).append([prediction(1)])
    with pytest.raises(ValueError, match="holds predictions"):
        PredictionLog(tmp_path, {"padding": "exact", "size": 800})
    with pytest.raises(ValueError, match="other settings: padding was 'exact', is 'original'"):
        PredictionLog(tmp_path, {"padding": "original", "size": 800}, resume=True)


def test_a_missing_image_is_noticed(tmp_path):
    log = PredictionLog(tmp_path, {})
    log.append([prediction(1)])
    with pytest.raises(ValueError, match="no prediction for 1 images, such as 2"):
        log.finish([1, 2])
