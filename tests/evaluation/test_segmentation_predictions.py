"""Masks and panoptic segments of a segmentation model, through files, to their scores."""

from __future__ import annotations

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detr import NATIVE_BACKBONE, randomize_norms, tiny_config
from typer.testing import CliRunner

from evaluation.oracles import pycocotools_evaluation
from transformers_detr import DetrForSegmentation, DetrImageProcessor, cli
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import CLASS_NAMES, make_scene, write_scenes
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.predict import plan_batches, predict
from transformers_detr.evaluation.predictions import ImagePrediction, PanopticFile, to_coco_results, to_record
from transformers_detr.evaluation.segmentation_predictions import (
    load_map,
    read_panoptic_truth,
    score_panoptic,
    segmentations,
)
from transformers_detr.model.coco_masks_detr import decode_rle, ids_to_rgb

IMAGES, SEED, STUFF = 5, 2, 7


@pytest.fixture(scope="module")
def detector():
    """A tiny segmentation model whose queries look at different places, some of them sure."""
    torch.manual_seed(1)
    names = dict(enumerate(CLASS_NAMES))
    config = tiny_config(
        encoder_attention_heads=8,
        backbone_config=NATIVE_BACKBONE,
        num_labels=len(names),
        id2label=names,
        label2id={name: label for label, name in names.items()},
        label_ids_to_fuse=[STUFF],
    )
    model = DetrForSegmentation(config).eval()
    randomize_norms(model)
    with torch.no_grad():
        model.mask_head.out_lay.weight *= 20
        model.detr.class_labels_classifier.weight *= 40
        model.detr.class_labels_classifier.bias[-1] -= 4
        model.detr.model.query_position_embeddings.weight *= 5
    return model, DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Generated scenes with instances and panoptic annotations side by side, as COCO has them."""
    folder = write_scenes(tmp_path_factory.mktemp("data") / "scenes", IMAGES, SEED)
    (folder / "annotations.json").rename(folder / "instances_val.json")
    images = folder / "panoptic_val"
    images.mkdir()
    annotations = []
    for index in range(IMAGES):
        scene = make_scene(SEED, index)
        Image.fromarray(ids_to_rgb(scene.instances)).save(images / f"{index:06d}.png")
        info = [
            {"id": number, "category_id": item.label, "iscrowd": int(item.iscrowd)}
            for number, item in enumerate(scene.objects, 1)
            if (scene.instances == number).any()
        ]
        annotations.append({"image_id": index, "file_name": f"{index:06d}.png", "segments_info": info})
    categories = [{"id": i, "name": name, "isthing": int(i != STUFF)} for i, name in enumerate(CLASS_NAMES)]
    content = {"annotations": annotations, "categories": categories}
    (folder / "panoptic_val.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def truth(data):
    return read_panoptic_truth(data / "panoptic_val.json", {name: i for i, name in enumerate(CLASS_NAMES)})


@pytest.fixture(scope="module")
def predicted(detector, data, tmp_path_factory):
    """Predictions in a batch with padding, and the folder of their images."""
    folder = tmp_path_factory.mktemp("panoptic")
    collect = partial(segmentations, folder=folder, stuff=[STUFF])
    batches = plan_batches(DetectionDataset.load(data).split("val"), IMAGES)
    return [p for batch in predict(*detector, batches, collect=collect) for p in batch], folder


def test_the_truth_as_prediction_is_perfect(truth):
    perfect = [
        ImagePrediction(image_id, panoptic=PanopticFile(entry["file_name"], entry["segments_info"]))
        for image_id, entry in truth.annotations.items()
    ]
    quality = score_panoptic(truth, perfect, truth.folder)
    assert (quality.all.pq, quality.all.sq, quality.all.rq) == (100, 100, 100)


def test_the_truth_of_photographs_as_prediction_is_perfect(shared_path):
    file = shared_path("data", "coco_panoptic_mini", "annotations", "panoptic_val2017.json")
    names = [category["name"] for category in json.loads(file.read_text())["categories"]]
    real = read_panoptic_truth(file, {name: label for label, name in enumerate(names)})
    perfect = [
        ImagePrediction(image_id, panoptic=PanopticFile(entry["file_name"], entry["segments_info"]))
        for image_id, entry in real.annotations.items()
    ]
    quality = score_panoptic(real, perfect, real.folder)
    segments = [segment for entry in real.annotations.values() for segment in entry["segments_info"]]
    assert quality.all.pq == 100
    assert quality.all.classes == len({s["category_id"] for s in segments if not s["iscrowd"]})


def test_every_query_has_its_mask(predicted, data):
    records = {record.id: record for record in DetectionDataset.load(data).split("val")}
    for prediction in predicted[0]:
        assert len(prediction.masks) == len(prediction.scores) == 10
        size = [records[prediction.image_id].height, records[prediction.image_id].width]
        assert all(mask["size"] == size for mask in prediction.masks)


def test_masks_in_a_batch_are_those_alone(predicted, detector, data, tmp_path):
    collect = partial(segmentations, folder=tmp_path, stuff=[STUFF])
    alone = {
        prediction.image_id: prediction
        for (prediction,) in predict(
            *detector, [[r] for r in DetectionDataset.load(data).split("val")], collect=collect
        )
    }
    pixels = different = 0
    for prediction in predicted[0]:
        for one, other in zip(prediction.masks, alone[prediction.image_id].masks, strict=True):
            first, second = decode_rle(one), decode_rle(other)
            pixels += first.size
            different += int((first != second).sum())
        assert prediction.panoptic == alone[prediction.image_id].panoptic
    assert different <= pixels * 1e-4  # a logit at the threshold may fall to either side


def test_mask_scores_equal_pycocotools(predicted, data):
    dataset = DetectionDataset.load(data).to_coco("val")
    ours = score_detections(dataset, predicted[0], "segm")
    oracle = pycocotools_evaluation(dataset, list(to_coco_results(predicted[0])), "segm").stats
    assert [-1 if np.isnan(v) else v for v in ours.summary.values()] == pytest.approx(oracle.tolist(), abs=1e-9)


def test_images_hold_the_segments_that_are_listed(predicted):
    predictions, folder = predicted
    assert any(prediction.panoptic.segments_info for prediction in predictions)
    for prediction in predictions:
        file = prediction.panoptic
        segments = load_map(prediction.image_id, file.file_name, file.segments_info, folder)
        assert set(np.unique(segments.ids)) - {0} == set(segments.category_of)


def test_an_image_without_segments_counts_as_missed(truth, predicted):
    quality = score_panoptic(truth, [], predicted[1])
    assert quality.all.pq == 0
    missed = sum(score.false_negatives for score in quality.per_class)
    segments = [segment for entry in truth.annotations.values() for segment in entry["segments_info"]]
    assert missed == sum(not segment["iscrowd"] for segment in segments)


def test_a_segment_of_a_class_that_does_not_count_is_as_good_as_none(truth):
    """Closed form: without one segment of its class, which is missed then, everything else is perfect."""
    predictions = []
    for image_id, entry in truth.annotations.items():
        info = [dict(segment) for segment in entry["segments_info"]]
        predictions.append(ImagePrediction(image_id, panoptic=PanopticFile(entry["file_name"], info)))
    changed = next(i for p in predictions for i in p.panoptic.segments_info if not i.get("iscrowd", 0))
    label, changed["category_id"] = changed["category_id"], 99
    quality = score_panoptic(truth, predictions, truth.folder)
    for score in quality.per_class:
        assert (score.false_negatives, score.false_positives) == (int(score.category_id == label), 0)


def test_truth_is_checked(tmp_path, data):
    known = {name: i for i, name in enumerate(CLASS_NAMES)}
    with pytest.raises(ValueError, match="not a panoptic annotation file"):
        read_panoptic_truth(data / "instances_val.json", known)
    del known["star"]
    with pytest.raises(ValueError, match=r"does not have the classes \['star'\]"):
        read_panoptic_truth(data / "panoptic_val.json", known)


def test_the_command_measures_all_three(detector, data, truth, tmp_path):
    for part in detector:
        part.save_pretrained(tmp_path / "model")
    output = tmp_path / "out"
    arguments = ["evaluate", "--model", tmp_path / "model", "--data", data, "--output", output, "--batch-size", 3]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["mask"].keys() == metrics["box"].keys()
    assert len(list((output / "panoptic").iterdir())) == IMAGES
    assert metrics["panoptic"]["all"]["classes"] > 0
    assert metrics["panoptic"]["stuff"].keys() == {"pq", "sq", "rq", "classes"}
    assert "all: PQ" in result.output
    assert "note:" not in result.output
    again = CliRunner().invoke(
        cli.app,
        ["evaluate", "--predictions", str(output / "predictions.jsonl"), "-d", str(data), "-o", str(tmp_path / "2")],
    )
    assert again.exit_code == 0, again.output
    repeated = json.loads((tmp_path / "2" / "metrics.json").read_text())
    assert all(repeated[name] == metrics[name] for name in ("box", "mask", "panoptic"))


@pytest.fixture(scope="module")
def predictions_file(predicted, data, tmp_path_factory):
    """Predictions as a run leaves them, and the images of segments beside."""
    found, folder = predicted
    output = tmp_path_factory.mktemp("predictions")
    header = {"class_names": list(CLASS_NAMES), "settings": {"data": "scenes"}}
    images = {image.id: image for image in DetectionDataset.load(data).split("val")}
    records = [to_record(one, images[one.image_id], dict(enumerate(CLASS_NAMES))) for one in found]
    lines = [json.dumps(entry) for entry in (header, *records)]
    (output / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    shutil.copytree(folder, output / "panoptic")
    return output / "predictions.jsonl"


def score(*arguments):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"})


def test_it_is_said_why_segments_were_not_compared(predictions_file, data, tmp_path):
    common = ("--predictions", predictions_file)
    (tmp_path / "images").symlink_to(data / "images")
    shutil.copy(data / "instances_val.json", tmp_path)
    alone = score(*common, "--data", tmp_path / "instances_val.json")
    assert alone.exit_code == 0, alone.output
    assert "not measured: there is no panoptic_val.json beside instances_val.json" in alone.stderr
    assert "--panoptic" in alone.stderr
    named = score(*common, "--data", tmp_path / "instances_val.json", "--panoptic", data / "panoptic_val.json")
    assert "all: PQ" in named.output

    truth = json.loads((data / "panoptic_val.json").read_text())
    truth["annotations"] = truth["annotations"][:-2]
    (tmp_path / "fewer.json").write_text(json.dumps(truth))
    shutil.copytree(data / "panoptic_val", tmp_path / "fewer")
    fewer = score(*common, "--data", tmp_path / "instances_val.json", "--panoptic", tmp_path / "fewer.json")
    assert "leaves out 2 images, of which fewer.json says nothing" in fewer.stderr
    for annotation in truth["annotations"]:
        annotation["image_id"] += 1000
    (tmp_path / "fewer.json").write_text(json.dumps(truth))
    others = score(*common, "--data", tmp_path / "instances_val.json", "--panoptic", tmp_path / "fewer.json")
    assert others.exit_code == 1
    assert "it has none of the images of" in others.stderr


def test_panoptic_annotations_alone_are_told_from_instances(predictions_file, data, tmp_path):
    (tmp_path / "annotations").mkdir()
    file = shutil.copy(data / "panoptic_val.json", tmp_path / "annotations")
    content = json.loads((data / "panoptic_val.json").read_text())
    (tmp_path / "annotations" / "panoptic_val.json").write_text(json.dumps({"images": [], **content}))
    for place in (tmp_path, file):
        refused = score("--predictions", predictions_file, "--data", place)
        assert refused.exit_code == 1
        assert "panoptic_val.json: panoptic annotations alone are not a dataset" in refused.stderr
    missing = score("--predictions", predictions_file, "--data", data, "--panoptic", tmp_path / "none.json")
    assert missing.exit_code == 2
    assert "none.json" in missing.stderr


def test_boxes_alone_have_no_panoptic_quality(data, tmp_path):
    (tmp_path / "results.json").write_text("[]")
    refused = score("--predictions", tmp_path / "results.json", "-d", data, "--panoptic", data / "panoptic_val.json")
    assert refused.exit_code == 1
    assert "nothing to compare with this file" in refused.stderr
