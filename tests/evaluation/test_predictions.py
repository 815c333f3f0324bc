"""Prediction files: what is written is read back, bit for bit, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.oracles import perturbed_results, random_dataset
from transformers_detr.data.records import ImageRecord
from transformers_detr.evaluation.predictions import (
    ImagePrediction,
    PanopticFile,
    from_coco_results,
    match_images,
    read_predictions,
    to_coco_results,
    to_record,
)

MASK = {"size": [4, 5], "counts": "12345"}


def prediction(image_id, count=3, **others):
    rng = np.random.default_rng(image_id)
    scores, boxes = rng.random(count), rng.random((count, 4)) * 100
    return ImagePrediction(image_id, scores, rng.integers(0, 9, count), boxes, **others)


def image(image_id, path="images/{}.png"):
    return ImageRecord(image_id, Path(path.format(image_id)), 40, 50, (), Path("labels.json"))


def test_records_round_trip(tmp_path):
    segments = PanopticFile("7.png", [{"id": 1, "category_id": 3}])
    predictions = [
        prediction(1),
        prediction(2, masks=[MASK] * 3),
        prediction(3, count=0),
        prediction(4, panoptic=segments),
        ImagePrediction(5, error="no such file"),
    ]
    names = {number: f"class {number}" for number in range(9)}
    records = [to_record(one, image(one.image_id), names) for one in predictions]
    assert [record["uri"] for record in records] == [f"images/{number}.png" for number in range(1, 6)]
    assert {found["label"] == f"class {found['class_id']}" for found in records[0]["detections"]} == {True}
    first, box = records[0]["detections"][0], predictions[0].boxes_xywh[0]
    assert [first[side] for side in ("xmin", "ymin", "xmax", "ymax")] == [*box[:2], *(box[:2] + box[2:])]
    assert first["score"] == predictions[0].scores[0]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [{"settings": {}}, *records]))
    read = list(read_predictions(tmp_path / "predictions.jsonl"))
    for one, other in zip(predictions, read, strict=True):
        assert (one.image_id, one.error, one.panoptic) == (other.image_id, other.error, other.panoptic)
        assert (one.masks or None) == other.masks
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.category_ids, other.category_ids)
        np.testing.assert_allclose(one.boxes_xywh, other.boxes_xywh, atol=1e-12)


def test_images_are_matched_by_path_and_unique_name():
    id_of = match_images([image(1), image(2), image(3, "other/2.png"), image(4, "images/a b.jpg")])
    for uri, expected in {
        "elsewhere/1.png": 1,  # the only file of this name
        "images/2.png": 2,
        str(Path("other/2.png").resolve()): 3,
        "elsewhere/2.png": None,
        "https://example.org/folder/a%20b.jpg?size=full": 4,
        "images/9.png": None,
    }.items():
        assert id_of({"id": 7, "uri": uri}) == expected, uri


def test_coco_results_round_trip(tmp_path):
    results = perturbed_results(random_dataset(0), 0)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    back = list(to_coco_results(read_predictions(file)))
    assert sorted(json.dumps(r, sort_keys=True) for r in back) == sorted(json.dumps(r, sort_keys=True) for r in results)
    with_masks = [{"image_id": 1, "category_id": 2, "score": 0.5, "segmentation": MASK}]
    assert next(iter(to_coco_results(from_coco_results(with_masks))))["segmentation"] == MASK


FOUND = {"label": "cat", "class_id": 1, "score": 0.5, "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"detections": []}', "line 2: id missing"),
        ('{"id": 1}', "line 2: detections missing"),
        (json.dumps({"id": 1, "detections": [FOUND, {"label": "cat"}]}), "image 1: xmin missing"),
        (json.dumps({"id": 1, "detections": [FOUND | {"score": float("nan")}]}), "not finite"),
        ("{nonsense", "line 2"),
        ("[1]", "line 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, reason):
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"settings": {}}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"predictions\.jsonl") as caught:
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
