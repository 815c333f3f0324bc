"""`evaluate`: the same numbers from a name, a loaded model, a predictor and a predictions file."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from evaluation.oracles import as_coco, pycocotools_evaluation
from evaluation.scene_model import scene_detector
from transformers_detr import Detector, evaluate
from transformers_detr.cli import app
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import write_scenes
from transformers_detr.evaluation.evaluation_workflow import EvaluationResult
from transformers_detr.evaluation.predict import predict
from transformers_detr.evaluation.predictions import read_predictions, to_coco_results


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Generated scenes, with objects added where the model sees some, so that AP is above 0."""
    folder = write_scenes(tmp_path_factory.mktemp("data") / "scenes", 5, seed=5)
    content = json.loads((folder / "annotations.json").read_text())
    records = DetectionDataset.load(folder).split("train")
    for (prediction,) in predict(*scene_detector(), [[record] for record in records]):
        for query in range(prediction.image_id % 4, 12, 3):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": prediction.image_id,
                    "category_id": int(prediction.category_ids[query]),
                    "bbox": prediction.boxes_xywh[query].round().tolist(),
                    "area": 900,
                    "iscrowd": 0,
                }
            )
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in scene_detector():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def result(folder, scenes):
    return evaluate(str(folder), scenes)


def test_the_summary_is_that_of_pycocotools(result, scenes):
    truth = DetectionDataset.load(scenes).to_coco("train")
    oracle = pycocotools_evaluation(truth, list(to_coco_results(result.predictions)), "bbox").stats.tolist()
    assert as_coco(result.summary.values()) == pytest.approx(oracle, abs=1e-9)
    assert 0.05 < oracle[0] < 0.95
    assert repr(result).startswith(f"<EvaluationResult: AP {100 * oracle[0]:.1f}, ")
    assert isinstance(result, EvaluationResult)
    assert (result.masks, result.panoptic, result.published, result.padding_differences) == (None,) * 4
    assert (result.unreadable, result.notes) == ({}, [])


def test_each_row_of_a_class_is_that_of_pycocotools(result, scenes):
    truth = DetectionDataset.load(scenes).to_coco("train")
    oracle = pycocotools_evaluation(truth, list(to_coco_results(result.predictions)), "bbox")
    rows = {row["category_id"]: row for row in result.per_class}
    assert len(rows) == len(truth["categories"])
    for index, category_id in enumerate(oracle.params.catIds):
        precision = oracle.eval["precision"][:, :, index, 0, -1]
        if (precision > -1).any():
            assert as_coco([rows[category_id]["ap"]]) == pytest.approx([precision[precision > -1].mean()], abs=1e-9)


def test_every_form_of_the_model_and_of_the_data_gives_the_same(result, folder, scenes):
    model, image_processor = scene_detector()
    dataset = DetectionDataset.load(scenes)
    for seen in (
        evaluate(model, dataset, image_processor=image_processor),
        evaluate(Detector(model, image_processor), dataset, split="train"),
        evaluate(type(model).from_pretrained(folder), scenes / "annotations.json"),
        evaluate(folder, scenes, batch_size=1, device="cpu"),
    ):
        assert seen.summary == pytest.approx(result.summary, abs=1e-6, nan_ok=True)


def test_a_loaded_model_keeps_its_mode_and_its_processor(scenes):
    model, image_processor = scene_detector()
    model.train()
    before = dict(image_processor.size)
    evaluate(model, scenes, image_processor=image_processor, limit=1, size=96)
    assert model.training
    assert dict(image_processor.size) == before


def test_a_run_and_its_predictions_give_the_same(result, folder, scenes, tmp_path):
    calls = []
    seen = evaluate(
        folder,
        scenes,
        output_dir=tmp_path,
        batch_size=2,
        progress=lambda *call: calls.append(call),
    )
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.jsonl"}
    assert calls[-1] == ("Predicting", 5, 5)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    again = evaluate(predictions=tmp_path / "predictions.jsonl", data=scenes)
    assert again.summary == pytest.approx(seen.summary, abs=0, nan_ok=True)
    results = seen.to_coco_results(tmp_path / "results.json")
    assert json.loads(results.read_text()) == list(to_coco_results(read_predictions(tmp_path / "predictions.jsonl")))
    with pytest.raises(ValueError, match="already holds predictions"):
        evaluate(folder, scenes, output_dir=tmp_path)
    resumed = evaluate(folder, scenes, output_dir=tmp_path, batch_size=2, resume=True)
    assert resumed.summary == pytest.approx(seen.summary, abs=0, nan_ok=True)


def test_saving_writes_the_report(result, tmp_path):
    page = result.save(tmp_path / "report", dataset_name="Scenes", command="my command")
    assert page.name == "report.html"
    metrics = json.loads((page.parent / "metrics.json").read_text())
    assert metrics["box"]["AP"] == pytest.approx(result.summary["AP"])
    assert metrics["settings"]["command"] == "my command"
    (entry,) = json.loads((page.parent / "model_index.json").read_text())
    assert {one["dataset"]["name"] for one in entry["results"]} == {"Scenes"}
    plain = result.save(tmp_path / "plain").parent
    assert "command" not in json.loads((plain / "metrics.json").read_text())["settings"]


def test_paddings_are_compared(folder, scenes):
    seen = evaluate(folder, scenes, check_padding=True, limit=3, batch_size=3).padding_differences
    assert seen["exact"].images == 3
    assert seen["exact"].boxes < 1e-5 <= seen["original"].boxes


def test_a_limit_and_a_device_are_kept(folder, scenes):
    seen = evaluate(folder, scenes, limit=2, dtype=torch.float64, max_detections="queries")
    assert len(seen.data.images) == len(seen.predictions) == 2
    assert seen.settings["dtype"] == "float64"
    assert seen.evaluation.boxes.max_detections[-1] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either a model or predictions"),
        ({"model": "m", "predictions": "p"}, "either a model or predictions"),
        ({"model": "m", "max_detections": 10}, "above 10"),
        ({"model": "m", "precision": "int8"}, "precision needs a backend"),
        ({"model": scene_detector()[0], "device": "cpu"}, "device: only for a model given by name"),
        ({"model": scene_detector()[0]}, "give image_processor"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, message, scenes):
    with pytest.raises(ValueError, match=message):
        evaluate(data=scenes, **arguments)


def test_other_types_are_refused(scenes):
    model, image_processor = scene_detector()
    with pytest.raises(TypeError, match="Linear"):
        evaluate(torch.nn.Linear(1, 1), scenes)
    with pytest.raises(TypeError, match="one of its splits, got list"):
        evaluate(model, [], image_processor=image_processor)


class Split(tuple):
    """The images of a split that knows its dataset and its name."""

    dataset = None
    name = "train"


def test_a_split_of_a_dataset_is_taken_as_it_is(result, folder, scenes):
    split = Split(DetectionDataset.load(scenes).split("train"))
    split.dataset = DetectionDataset.load(scenes)
    assert evaluate(folder, split).summary == pytest.approx(result.summary, abs=1e-9, nan_ok=True)
    few = Split(split[:2])
    few.dataset = split.dataset
    assert [image.id for image in evaluate(folder, few).data.images] == [image.id for image in split[:2]]
    with pytest.raises(ValueError, match="data is the split 'train'"):
        evaluate(folder, split, split="val")


def test_a_threshold_of_the_predictions_is_noted(folder, scenes, tmp_path):
    evaluate(folder, scenes, output_dir=tmp_path)
    file = tmp_path / "predictions.jsonl"
    first, *lines = file.read_text().splitlines(keepends=True)
    for threshold, notes in ((0.5, 1), (0, 0)):
        header = json.loads(first)
        header["settings"]["threshold"] = threshold
        file.write_text(json.dumps(header) + "\n" + "".join(lines))
        seen = evaluate(predictions=file, data=scenes).notes
        assert len(seen) == notes
        assert all("threshold 0.5" in note for note in seen)


@pytest.mark.parametrize("threshold", [0, 0.2])
def test_predictions_of_detect_are_scored(result, folder, scenes, tmp_path, threshold):
    """Images of several sizes are batched otherwise, so that the last digits differ."""
    command = ["detect", scenes / "images", "--model", folder, "-o", tmp_path, "-t", threshold, "--no-images"]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    seen = evaluate(predictions=tmp_path / "predictions.jsonl", data=scenes)
    assert len(seen.notes) == (threshold > 0)
    if threshold:
        assert "threshold 0.2" in seen.notes[0]
        return
    assert seen.summary == pytest.approx(result.summary, abs=1e-3, nan_ok=True)
    few = evaluate(predictions=tmp_path / "predictions.jsonl", data=scenes, limit=2)
    assert len(few.predictions) == 2
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))
    assert "2 images have no prediction" in evaluate(predictions=file, data=scenes).notes[0]
    write_scenes(tmp_path / "other", 8, seed=9)
    for image in (tmp_path / "other" / "images").iterdir():
        image.rename(image.with_name(f"other-{image.name}"))
    labels = tmp_path / "other" / "annotations.json"
    labels.write_text(labels.read_text().replace('"file_name": "', '"file_name": "other-'))
    with pytest.raises(ValueError, match="none of its images are in"):
        evaluate(predictions=file, data=tmp_path / "other")
