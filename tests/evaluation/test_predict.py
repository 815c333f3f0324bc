"""From images to predictions: nothing lost on the way, whatever the batches, interruptions and processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from evaluation.oracles import pycocotools_evaluation
from evaluation.processes import run_process
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.compute_metrics import DetectionMetrics
from transformers_detr.evaluation.padding_check import padding_differences
from transformers_detr.evaluation.predict import plan_batches, predict, predict_to_file
from transformers_detr.evaluation.predictions import to_coco_results
from transformers_detr.inference.prediction_writer import PredictionWriter


def predictions_of(detector, records, batch_size, **options):
    batches = plan_batches(records, batch_size)
    found = [p for batch in predict(*detector, batches, **options) for p in batch]
    return {p.image_id: p for p in found}


@pytest.fixture(scope="module")
def alone(scene_detector, scene_records):
    return predictions_of(scene_detector, scene_records, 1)


@pytest.fixture
def broken(scenes, tmp_path):
    """The scenes with two images that cannot be read: one cut short, one missing."""
    folder = tmp_path / "broken"
    (folder / "images").mkdir(parents=True)
    for image in (scenes / "images").iterdir():
        (folder / "images" / image.name).write_bytes(image.read_bytes())
    (folder / "annotations.json").write_bytes((scenes / "annotations.json").read_bytes())
    cut = folder / "images" / "000004.png"
    cut.write_bytes(cut.read_bytes()[:200])
    (folder / "images" / "000007.png").unlink()
    return folder


def test_every_query_counts_with_its_fractions(alone, scene_detector, scene_records):
    """Against the model and the arithmetic of boxes and probabilities, written out."""
    model, processor = scene_detector
    record = scene_records[0]
    with torch.no_grad():
        outputs = model(**processor(images=record.load_image(), return_tensors="pt"))
    probabilities = outputs.logits[0].softmax(-1)[:, :-1]
    x, y, width, height = outputs.pred_boxes[0].unbind(-1)
    boxes = torch.stack([x - width / 2, y - height / 2, width, height], -1)
    scale = torch.tensor([record.width, record.height, record.width, record.height])
    prediction = alone[record.id]
    assert len(prediction.scores) == model.config.num_queries
    np.testing.assert_allclose(prediction.scores, probabilities.max(-1).values, atol=1e-6)
    np.testing.assert_array_equal(prediction.category_ids, probabilities.argmax(-1))
    np.testing.assert_allclose(prediction.boxes_xywh, boxes * scale, atol=1e-3)
    assert (prediction.boxes_xywh % 1 > 0).any()
    assert prediction.scores.min() < 0.5


@pytest.mark.parametrize("batch_size", [4, 8])
def test_the_batch_does_not_matter_with_exact_padding(alone, scene_detector, scene_records, batch_size):
    together = predictions_of(scene_detector, scene_records, batch_size)
    assert together.keys() == alone.keys()
    for image_id, prediction in together.items():
        np.testing.assert_allclose(prediction.scores, alone[image_id].scores, atol=1e-5)
        np.testing.assert_allclose(prediction.boxes_xywh, alone[image_id].boxes_xywh, atol=1e-2)


def test_the_batch_matters_with_the_original_padding(alone, scene_detector, scene_records):
    """Otherwise the test above shows nothing."""
    together = predictions_of(scene_detector, scene_records, 8, exact_padding=False)
    differences = [np.abs(p.boxes_xywh - alone[i].boxes_xywh).max() for i, p in together.items()]
    assert max(differences) > 0.5


def test_padding_check(scene_detector, scene_records):
    seen = padding_differences(*scene_detector, plan_batches(scene_records, 4))
    assert seen["exact"].images == seen["original"].images == len(scene_records)
    assert seen["exact"].padded == seen["original"].padded > 0
    assert seen["exact"].logits < 1e-4
    assert seen["exact"].boxes < 1e-5
    assert seen["original"].logits > 1e-2
    assert seen["original"].boxes > 1e-3


def test_batches_hold_similar_shapes_and_every_image_once(scene_records):
    batches = plan_batches(scene_records, 3)
    assert Counter(r.id for batch in batches for r in batch) == Counter(r.id for r in scene_records)
    assert max(map(len, batches)) == 3
    ratios = [r.width / r.height for batch in batches for r in batch]
    assert ratios == sorted(ratios)
    for batch in plan_batches(scene_records, 3, equal_sizes=True):
        assert len({(r.height, r.width) for r in batch}) == 1
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        plan_batches(scene_records, 0)


def test_images_that_cannot_be_read_are_named_and_count(scene_detector, broken, alone):
    dataset = DetectionDataset.load(broken, report=lambda finding: None)
    found = predictions_of(scene_detector, dataset.split("train"), 3)
    assert found.keys() == alone.keys()
    errors = {image_id: p.error for image_id, p in found.items() if p.error}
    assert errors.keys() == {4, 7}
    assert "000004.png" in errors[4]
    assert "000007.png" in errors[7]

    truth = dataset.to_coco("train")
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth["annotations"]
        if a["image_id"] not in errors
    ]
    oracle = pycocotools_evaluation(truth, perfect, "bbox").stats
    assert oracle[8] < 1  # what is in unread images counts as missed
    ours = score_detections(truth, [p for p in found.values() if p.error])
    assert ours.summary["AP"] == 0


def test_outputs_that_are_not_finite_are_named(scene_detector, scene_records):
    class Diverged(torch.nn.Module):
        device = torch.device("cpu")
        config = scene_detector[0].config

        def forward(self, **inputs):
            outputs = scene_detector[0](**inputs)
            outputs.logits = outputs.logits * float("nan")
            return outputs

    (batch,) = predict(Diverged(), scene_detector[1], [scene_records[:2]])
    assert [p.error for p in batch] == ["the model's output is not finite"] * 2


def run(folder, detector, records, resume=False, stop_after=None):
    """Predict into a folder; perhaps stop, as if killed, after some batches."""
    writer = PredictionWriter(folder, {"a": 1}, resume=resume)

    def predict_batches(batches):
        for number, predictions in enumerate(predict(*detector, batches)):
            if number == stop_after:
                raise KeyboardInterrupt
            yield predictions

    seen = []
    predict_to_file(writer, {}, plan_batches(records, 2), predict_batches, seen.append)
    return writer.path.read_bytes(), seen


def test_an_interrupted_run_resumes_to_the_same_bytes(scene_detector, scene_records, tmp_path):
    whole, _ = run(tmp_path / "whole", scene_detector, scene_records)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", scene_detector, scene_records, stop_after=2)
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-50])  # torn within the second batch
    resumed, seen = run(tmp_path / "parts", scene_detector, scene_records, resume=True)
    assert resumed == whole
    assert seen[0] == 2  # one batch was whole
    assert sum(seen) == len(scene_records)


@pytest.mark.slow
def test_two_processes_resume_to_the_bytes_of_one(scene_detector, scene_records, scenes, tmp_path):
    whole, _ = run(tmp_path / "one", scene_detector, scene_records)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "two", scene_detector, scene_records, stop_after=2)
    torch.multiprocessing.spawn(run_process, (2, str(tmp_path / "two"), str(scenes)), nprocs=2)
    assert (tmp_path / "two" / "predictions.jsonl").read_bytes() == whole
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["predictions.jsonl"]


def test_scores_equal_pycocotools_with_ids_from_zero(alone, scene_truth, tmp_path):
    """Scenes have an image 0 and a class 0."""
    ours = score_detections(scene_truth, alone.values())
    oracle = pycocotools_evaluation(scene_truth, list(to_coco_results(alone.values())), "bbox")
    assert [-1 if np.isnan(v) else v for v in ours.summary.values()] == pytest.approx(oracle.stats.tolist(), abs=1e-9)


def test_compute_metrics_of_the_trainer(scene_detector, scene_records, scene_truth, alone):
    """Through the evaluation loop of transformers' Trainer; some of the detections are taken for the truth."""
    from transformers import Trainer, TrainingArguments

    model, processor = scene_detector
    truth = {
        **scene_truth,
        "annotations": [
            {"image_id": i, "category_id": int(p.category_ids[query]), "bbox": p.boxes_xywh[query].tolist()}
            for i, p in alone.items()
            for query in range(i % 4, 12, 3)
        ],
    }

    def collate(records):
        images = [record.load_image() for record in records]
        return dict(processor(images, [record.coco_target() for record in records], return_tensors="pt"))

    arguments = TrainingArguments(
        "unused",
        per_device_eval_batch_size=1,
        batch_eval_metrics=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model, arguments, collate, eval_dataset=scene_records, compute_metrics=DetectionMetrics(truth))
    metrics = trainer.evaluate()
    expected = score_detections(truth, alone.values()).summary
    assert 20 < expected["AP"] < 90
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected, abs=1e-6, nan_ok=True)
