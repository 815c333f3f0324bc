"""The report folder and the numbers for the model card."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

from evaluation.oracles import as_coco, perturbed_results, pycocotools_evaluation, random_dataset
from transformers_detr.evaluation import charts, evaluation_report
from transformers_detr.evaluation.evaluation_report import write_report
from transformers_detr.evaluation.model_index import Evidence, eval_results, model_index
from transformers_detr.evaluation.panoptic_quality import PanopticQuality, PanopticScore
from transformers_detr.evaluation.predictions import ImagePrediction, from_coco_results
from transformers_detr.evaluation.published_comparison import compare_with_published
from transformers_detr.evaluation.scoring import evaluate_predictions
from transformers_detr.hub.class_names import COCO_NAMES
from transformers_detr.visualization.annotate import contact_sheet

ODD_NAME = "<b>cat & dog</b>"


class Page(HTMLParser):
    """Collects the sources of images, links, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.others, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.sources.append(values["src"])
            assert values["alt"]
        self.others += [values[name] for name in ("href", "data", "srcset") if name in values]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def measured():
    dataset = random_dataset(0)
    dataset["categories"][0]["name"] = ODD_NAME
    results = perturbed_results(dataset, 0)
    predictions = [p for p in from_coco_results(results) if p.image_id != 3]
    predictions.append(ImagePrediction(3, error="cannot be decoded <i>"))
    panoptic = PanopticQuality(PanopticScore(50.0, 60.0, 70.0, 3), *[PanopticScore(*[math.nan] * 3, 0)] * 2, [])
    return dataset, results, evaluate_predictions(dataset, predictions, panoptic=panoptic)


@pytest.fixture(scope="module")
def folder(measured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(
        folder,
        measured[2],
        "model on data",
        {"command": "detr evaluate"},
        load_image=lambda image_id: Image.new("L", (640, 480), 90),
    )
    return folder


def test_metrics_file_holds_the_numbers(measured, folder):
    dataset, results, _ = measured
    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    oracle = pycocotools_evaluation(dataset, [r for r in results if r["image_id"] != 3], "bbox").stats
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert as_coco(metrics["box"][name] for name in names) == pytest.approx(oracle.tolist(), abs=1e-9)
    assert metrics["box"]["max_detections"] == [1, 10, 100]
    assert metrics["unreadable_images"] == {"3.jpg": "cannot be decoded <i>"}
    assert metrics["images"] == 12
    assert metrics["panoptic"]["all"] == {"pq": 50.0, "sq": 60.0, "rq": 70.0, "classes": 3}
    assert metrics["panoptic"]["things"]["pq"] is None
    assert metrics["settings"] == {"command": "detr evaluate"}
    assert metrics["box"]["per_class"]["class 4"]["ap"] is None  # no objects of it


def test_tables(measured, folder):
    with (folder / "per_class.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    evaluation = measured[2]
    for scores in evaluation.boxes.per_class[:3]:
        row = rows[scores.name]
        assert float(row["ap"]) == scores.ap
        assert int(row["objects"]) == scores.objects
        assert float(row["best_threshold"]) == evaluation.best_per_class[scores.category_id].threshold
    assert rows["class 4"]["ap"] == ""
    with (folder / "confusion_matrix.csv").open(newline="") as file:
        header, *matrix = csv.reader(file)
    assert header[1:] == [ODD_NAME, "class 2", "class 3", "class 4", "missed"]
    per_row = [sum(map(int, row[1:])) for row in matrix]
    assert per_row[:-1] == [scores.objects for scores in evaluation.boxes.per_class]


def test_page_needs_nothing_else(folder):
    page = Page((folder / "report.html").read_text())
    assert len(page.sources) >= 8
    assert page.others == []
    for source in page.sources:
        kind, data = source.split(";base64,")
        content = base64.b64decode(data)
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            Image.open(io.BytesIO(content)).load()


def test_page_says_what_matters(measured, folder):
    page = Page((folder / "report.html").read_text())
    assert f"{measured[2].boxes.summary['AP']:.1f}" in page.text
    assert ODD_NAME in page.text  # escaped, so it is text
    assert "1 of 12 images could not be predicted" in page.text
    assert "cannot be decoded <i>" in page.text
    assert "nan" not in page.text.lower()
    assert "detr evaluate" in page.text


def test_worst_images_are_on_the_contact_sheet(folder):
    with Image.open(folder / "worst_images.jpg") as sheet:
        assert sheet.width > 3 * 500
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 24)}
    assert len(colors) > 100  # gray photographs, colored boxes


def test_contact_sheet_keeps_every_image():
    images = [Image.new("RGB", (20, height), color) for height, color in ((10, "red"), (30, "lime"), (10, "blue"))]
    sheet = contact_sheet(images, columns=2, gap=4)
    assert sheet.size == (2 * 24 + 4, 30 + 10 + 3 * 4)
    assert [sheet.getpixel(at) for at in ((5, 5), (29, 33), (5, 39))] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize("kind", ["nothing found", "nothing there", "one class"])
def test_report_of_next_to_nothing(tmp_path, kind):
    dataset = random_dataset(0, images=2, classes=2)
    found = from_coco_results(perturbed_results(dataset, 0))
    if kind == "nothing found":
        found = []
    elif kind == "nothing there":
        dataset["annotations"] = []
    page = write_report(tmp_path, evaluate_predictions(dataset, found), kind, {})
    assert "nan" not in Page(page.read_text()).text.lower()
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_an_interrupted_report_leaves_the_files_that_were_there(measured, tmp_path, monkeypatch):
    write_report(tmp_path, measured[2], "first", {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_report, "_page", stop)  # the last to be written
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, measured[2], "second", {"other": "settings"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_masks_are_scored_when_there_are_any():
    dataset = random_dataset(2, images=3)
    for annotation in dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    found = from_coco_results(perturbed_results(dataset, 2, masks=True))
    assert evaluate_predictions(dataset, found).masks.kind == "segm"
    boxes_only = [replace(prediction, masks=None) for prediction in found]
    assert evaluate_predictions(dataset, boxes_only).masks is None


EVIDENCE = Evidence("COCO 2017", "detection-datasets/coco", "val", "detr evaluate --model m", "abc123")


def test_model_card_carries_the_numbers_and_their_evidence(measured):
    evaluation = measured[2]
    results = eval_results(evaluation, EVIDENCE)
    data = ModelCardData(model_name="detr-test", eval_results=results)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n# A card\n")
    read = {result.metric_name: result for result in card.data.eval_results}
    assert set(read) == {"box AP", "box AP50", "box AP75", "PQ", "SQ", "RQ"}
    assert read["box AP"].metric_value == round(evaluation.boxes.summary["AP"], 2)
    assert read["PQ"].metric_value == 50
    for result in read.values():
        assert (result.dataset_split, result.dataset_revision) == ("val", "abc123")
        assert result.metric_args["command"] == "detr evaluate --model m"
    assert read["box AP"].metric_args["max_detections"] == 100
    (entry,) = model_index("detr-test", results)
    assert entry["name"] == "detr-test"


def test_undefined_numbers_are_left_out_of_the_card():
    dataset = {**random_dataset(0), "annotations": []}
    assert eval_results(evaluate_predictions(dataset, []), EVIDENCE) == []


def coco_evaluation(names):
    dataset = random_dataset(0)
    dataset["categories"] = [{"id": label, "name": name} for label, name in names.items() if name != "N/A"]
    return evaluate_predictions(dataset, from_coco_results(perturbed_results(dataset, 0)))


def test_comparison_with_the_published_numbers():
    evaluation = coco_evaluation(COCO_NAMES)
    comparison = compare_with_published(evaluation, "facebook/detr-resnet-50", "exact")
    rows = {row.metric: row for row in comparison.rows}
    assert list(rows) == ["box AP", "box AP50", "box AP75", "box AP small", "box AP medium", "box AP large"]
    assert rows["box AP"].published == pytest.approx(42.0)
    assert rows["box AP"].difference == pytest.approx(evaluation.boxes.summary["AP"] - 42.0)
    assert any("12 images, not the 5000" in note for note in comparison.notes)
    assert not any("DC5" in note for note in comparison.notes)


@pytest.mark.parametrize(("padding", "said"), [("exact", "does not matter"), ("original", "score lower")])
def test_comparison_of_dc5_says_what_padding_does(padding, said):
    comparison = compare_with_published(coco_evaluation(COCO_NAMES), "models/detr-resnet-50-dc5/", padding)
    assert any("one image at a time" in note and said in note for note in comparison.notes)


def test_only_published_models_are_compared():
    assert compare_with_published(coco_evaluation(COCO_NAMES), "someone/detr-mine", "exact") is None
    other_classes = coco_evaluation({1: "cat", 2: "dog", 3: "cow", 4: "hen"})
    assert compare_with_published(other_classes, "me/detr-resnet-50", "exact") is None


def test_without_matplotlib_the_page_has_all_but_the_charts(measured, tmp_path, monkeypatch):
    page = write_report(tmp_path / "with", measured[2], "model", {}).read_text(encoding="utf-8")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    plain = write_report(tmp_path / "without", measured[2], "model", {}).read_text(encoding="utf-8")
    assert not evaluation_report.can_draw_charts()
    assert "<figure>" in page
    assert "<figure>" not in plain
    assert "Where it is right" not in plain
    assert Page(plain).text.count("AP50") == Page(page).text.count("AP50") > 0
    names = ["metrics.json", "per_class.csv", "confusion_matrix.csv"]
    assert all((tmp_path / "with" / n).read_bytes() == (tmp_path / "without" / n).read_bytes() for n in names)


def test_names_in_scripts_that_matplotlib_s_font_lacks():
    """A warning would be an error here."""
    svg = charts.confusion_chart(np.array([[3, 1, 0], [0, 2, 1], [1, 0, 0]]), ["椅子", "кот"])
    assert "椅子" in svg
    assert "кот" in svg
