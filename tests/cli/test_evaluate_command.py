"""`detr evaluate`: from a model or a predictions file to the same numbers, and what it says when things go wrong."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluation.oracles import as_coco, pycocotools_evaluation
from evaluation.scene_model import scene_detector
from transformers_detr import cli
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import write_scenes
from transformers_detr.evaluation.predict import predict
from transformers_detr.evaluation.predictions import read_predictions, to_coco_results


def run(*arguments):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in scene_detector():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scenes(model, tmp_path_factory):
    """Generated scenes, with objects added where the model sees some."""
    folder = write_scenes(tmp_path_factory.mktemp("data") / "scenes", 7, seed=5)
    records = DetectionDataset.load(folder).split("train")
    content = json.loads((folder / "annotations.json").read_text())
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
def finished(model, scenes, tmp_path_factory):
    """The output folder of a run, and what it said."""
    output = tmp_path_factory.mktemp("out")
    result = run("--model", model, "--data", scenes / "annotations.json", "--output", output, "--batch-size", 3)
    assert result.exit_code == 0, result.output
    return output, result.output


def metrics_of(output):
    return json.loads((output / "metrics.json").read_text())


def test_the_numbers_are_those_of_pycocotools(finished, scenes):
    output, said = finished
    truth = DetectionDataset.load(scenes).to_coco("train")
    results = list(to_coco_results(read_predictions(output / "predictions.jsonl")))
    assert len(results) == 7 * 12
    oracle = pycocotools_evaluation(truth, results, "bbox").stats
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    box = metrics_of(output)["box"]
    assert as_coco(box[name] for name in names) == pytest.approx(oracle.tolist(), abs=1e-9)
    assert 0.05 < oracle[0] < 0.95
    assert f"│ AR100 │ {100 * oracle[8]:.1f}" in said
    assert "7 images, 0 of them not predicted; at most 100 detections per image and class" in said


def test_everything_is_in_the_folder(finished):
    output, _ = finished
    assert {path.name for path in output.iterdir()} == {
        "predictions.jsonl", "metrics.json", "per_class.csv", "confusion_matrix.csv", "worst_images.jpg",
        "report.html", "model_index.json",
    }  # fmt: skip
    settings = metrics_of(output)["settings"]
    assert (settings["padding"], settings["batch_size"], settings["split"]) == ("exact", 3, "train")
    assert settings["command"].startswith("detr")
    (entry,) = json.loads((output / "model_index.json").read_text())
    assert {result["dataset"]["name"] for result in entry["results"]} == {"annotations.json"}  # not where it lies


def test_scoring_a_predictions_file_gives_the_same(finished, scenes, tmp_path):
    output, _ = finished
    again = run("--predictions", output / "predictions.jsonl", "--data", scenes / "annotations.json", "-o", tmp_path)
    assert again.exit_code == 0, again.output
    assert metrics_of(tmp_path)["box"] == metrics_of(output)["box"]

    results = tmp_path / "coco_results.json"
    written = run(
        "--predictions", output / "predictions.jsonl", "-d", scenes / "annotations.json", "--coco-results", results
    )
    assert written.exit_code == 0, written.output
    assert json.loads(results.read_text()) == list(to_coco_results(read_predictions(output / "predictions.jsonl")))
    from_coco = run("--predictions", results, "--data", scenes / "annotations.json", "--output", tmp_path / "coco")
    assert from_coco.exit_code == 0, from_coco.output
    assert metrics_of(tmp_path / "coco")["box"] == metrics_of(output)["box"]


def test_a_predictions_file_needs_no_folder(finished, scenes):
    output, said = finished
    table = said[said.index("│ AP ") : said.index("7 images")]
    result = run("--predictions", output / "predictions.jsonl", "--data", scenes / "annotations.json")
    assert result.exit_code == 0
    assert table in result.output


def test_coco_results_bear_coco_category_ids(scenes, tmp_path):
    """Ids with gaps, which a model would number from 0."""
    content = json.loads((scenes / "annotations.json").read_text())
    for entry in content["categories"]:
        entry["id"] = 10 + 3 * entry["id"]
    for entry in content["annotations"]:
        entry["category_id"] = 10 + 3 * entry["category_id"]
    folder = tmp_path / "gaps"
    shutil.copytree(scenes / "images", folder / "images")
    (folder / "annotations.json").write_text(json.dumps(content))
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in content["annotations"]
        if not a["iscrowd"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(perfect))
    result = run("--predictions", tmp_path / "results.json", "--data", folder / "annotations.json", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert metrics_of(tmp_path)["box"]["AP"] == 100


def test_resuming_and_its_refusals(finished, model, scenes, tmp_path):
    output, _ = finished
    common = ("--model", model, "--data", scenes / "annotations.json", "--output", tmp_path)
    lines = (output / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "predictions.part0.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:30])

    refused = run(*common, "--batch-size", 3)
    assert refused.exit_code == 1
    assert "already holds predictions" in refused.output
    other = run(*common, "--batch-size", 2, "--resume")
    assert other.exit_code == 1
    assert "batch_size was 3 and is now 2" in other.output
    resumed = run(*common, "--batch-size", 3, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "predictions.jsonl").read_bytes() == b"".join(lines)
    assert metrics_of(tmp_path)["box"] == metrics_of(output)["box"]


def test_an_image_that_cannot_be_read_is_named(model, scenes, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(scenes / "images", folder / "images")
    (folder / "images" / "000002.png").write_bytes(b"no image")
    (folder / "annotations.json").write_bytes((scenes / "annotations.json").read_bytes())
    result = run("--model", model, "--data", folder / "annotations.json", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "not predicted: " in result.output
    assert "000002.png" in result.output
    assert "7 images, 1 of them not predicted" in result.output
    metrics = metrics_of(tmp_path / "out")
    assert list(metrics["unreadable_images"]) == ["000002.png"]
    assert metrics["images"] == 7
    total = json.loads((scenes / "annotations.json").read_text())["annotations"]
    assert metrics["objects"] == sum(not annotation["iscrowd"] for annotation in total)


def test_paddings_are_compared(model, scenes, tmp_path):
    common = ("--model", model, "--data", scenes / "annotations.json", "--batch-size", 7, "--limit", 6)
    result = run(*common, "--check-padding", "--output", tmp_path / "exact")
    assert result.exit_code == 0, result.output
    seen = metrics_of(tmp_path / "exact")["settings"]["padding_check"]
    assert seen["exact"]["images"] == 6
    assert seen["exact"]["boxes"] < 1e-5 < 1e-3 < seen["original"]["boxes"]
    assert "original padding: alone and in the batch, logits differ by up to" in result.output

    original = run(*common, "--padding", "original", "--output", tmp_path / "original")
    assert original.exit_code == 0, original.output
    exact, other = (
        np.stack([p.boxes_xywh for p in read_predictions(tmp_path / kind / "predictions.jsonl")])
        for kind in ("exact", "original")
    )
    assert np.abs(exact - other).max() > 0.1


def test_the_detection_limit_follows_the_queries(finished, scenes, tmp_path):
    output, _ = finished
    common = ("--predictions", output / "predictions.jsonl", "--data", scenes / "annotations.json")
    twelve_queries = run(*common, "--max-detections", "queries")
    assert "at most 100 detections per image and class" in twelve_queries.output
    more = run(*common, "--max-detections", 300)
    assert "at most 300 detections per image and class" in more.output
    assert "AR300" in more.output


@pytest.mark.parametrize("limit", ["many", "10", "-1"])
def test_a_wrong_detection_limit_is_refused_before_anything_is_predicted(limit, model, scenes, tmp_path):
    data = ("--data", scenes / "annotations.json", "--model", model, "--output", tmp_path / "scored")
    wrong = run(*data, f"--max-detections={limit}")
    assert wrong.exit_code == 2
    assert f"'{limit}' is neither 'queries' nor a number above 10" in wrong.output
    assert not (tmp_path / "scored").exists()


def test_without_a_name_the_validation_split_or_the_only_one_is_taken(model, tmp_path):
    write_scenes(tmp_path / "both" / "train", 2, seed=1)
    write_scenes(tmp_path / "both" / "val", 3, seed=2)
    both = run("--model", model, "--output", tmp_path / "scored", "--data", tmp_path / "both")
    assert "val: 3 images" in both.output
    lines = tmp_path / "scored" / "predictions.jsonl"
    assert "val: 3 images" in run("--predictions", lines, "--data", tmp_path / "both").output
    only = ("--model", model, "--output", tmp_path / "scored-too", "--data", tmp_path / "both" / "train")
    assert "no split 'test'; it has train" in run(*only, "--split", "test").output
    assert "train: 2 images" in run(*only).output


def test_wrong_calls_are_refused(model, scenes, tmp_path):
    data = ("--data", scenes / "annotations.json")
    assert "give either --model or --predictions" in run(*data).output
    assert "needs a folder" in run(*data, "--model", model).output
    missing = run(*data, "--model", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert missing.exit_code == 1
    assert "no such folder" in missing.output
    no_data = run("--data", tmp_path / "nothing", "--model", model, "--output", tmp_path / "out")
    assert no_data.exit_code == 1
    assert "nothing" in no_data.output
    assert not (tmp_path / "out").exists()


def test_classes_that_the_model_does_not_know_are_refused(scenes, tmp_path):
    from tiny_detector import save, tiny_detector

    folder = save(tiny_detector(), tmp_path / "model")
    result = run("--data", scenes / "annotations.json", "--model", folder, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "are not among ['cat', 'Möwe', '椅子']" in result.output


@pytest.mark.parametrize(("kind", "name"), [("bbox", "boxes"), ("segm", "masks")])
def test_official_numbers_from_their_files_without_the_images(shared_path, tmp_path, kind, name):
    folder = shared_path("data", "evaluator")
    results = folder / f"instances_val2014_fake{kind}100_results.json"
    result = run("--predictions", results, "--data", folder / "instances_val2014_100.json", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    official = (folder / "val2014_fake_eval_res.txt").read_text().split(f"type={kind}")[1].split("type=")[0]
    scores = metrics_of(tmp_path)["box" if kind == "bbox" else "mask"]
    assert [f"{value:.3f}" for value in as_coco(list(scores.values())[:12])] == re.findall(r"\] = (\d\.\d+)", official)
    assert name in result.output


def test_results_that_cannot_be_written_are_told(finished, scenes, tmp_path):
    output, _ = finished
    (tmp_path / "file").write_text("")
    common = ("--predictions", output / "predictions.jsonl", "--data", scenes / "annotations.json")
    result = run(*common, "--coco-results", tmp_path / "file" / "results.json")
    assert result.exit_code == 1
    assert "Measured, but not written." in result.stderr


def test_undefined_numbers_are_dashes(scenes, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    content["annotations"] = []
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text("[]")
    result = run("--predictions", tmp_path / "results.json", "--data", tmp_path / "annotations.json")
    assert result.exit_code == 0, result.output
    assert "│ AP    │ –" in result.output
