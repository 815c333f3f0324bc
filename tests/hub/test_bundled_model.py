"""The bundled model: small, known by its name, plain DETR to stock transformers, as good as its card says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from bundled_card import bundled_card
from transformers_detr import Detector, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.synthetic import CLASS_NAMES, make_scene, write_scenes
from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.predict import plan_batches, predict
from transformers_detr.hub.bundled_model import FOLDER, MEASURED, NAME
from transformers_detr.hub.loading import load_pretrained
from transformers_detr.model.frozen_batch_norm_detr import DetrFrozenBatchNorm2d


def test_it_is_small_and_holds_half_precision():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000
    kinds = {value.dtype for value in load_file(FOLDER / "model.safetensors").values()}
    assert kinds == {torch.float16}


def test_its_name_loads_it_without_network():
    detector = Detector.from_pretrained(NAME)
    assert detector.model.dtype == torch.float32
    assert tuple(detector.model.config.id2label.values()) == CLASS_NAMES
    named = detector.model.unfuse().state_dict()
    stored = DetrForObjectDetection.from_pretrained(FOLDER).state_dict()
    assert all(torch.equal(named[name], value) for name, value in stored.items())


@pytest.mark.current_stock
def test_stock_gives_the_same_boxes_on_ten_scenes_if_it_keeps_the_activations():
    """Stock loads the folder, but loses the activations fused with its norms; the test puts them back."""
    ours = DetrForObjectDetection.from_pretrained(FOLDER).eval()
    stock = transformers.DetrForObjectDetection.from_pretrained(FOLDER).eval()
    theirs = {name: norm for name, norm in stock.named_modules() if type(norm).__name__ == "DetrFrozenBatchNorm2d"}
    kept = [norm.act for norm in ours.modules() if isinstance(norm, DetrFrozenBatchNorm2d)]
    for norm, act in zip(theirs.values(), kept, strict=True):
        if act is not None:
            norm.register_forward_hook(lambda _module, _inputs, features, act=act: act(features))
    processor = DetrImageProcessor.from_pretrained(FOLDER)
    for index in range(10):
        inputs = processor(make_scene(4, index).image, return_tensors="pt")
        with torch.no_grad():
            wanted, found = stock(**inputs), ours(**inputs)
        torch.testing.assert_close(found.pred_boxes, wanted.pred_boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=1e-3)


def score(tmp_path, count):
    write_scenes(tmp_path / "held", count, seed=3)
    dataset = DetectionDataset.load(tmp_path / "held")
    (split,) = dataset.splits
    model, processor = load_pretrained(DetrForObjectDetection, NAME)
    batches = plan_batches(dataset.split(split), 8, not model.supports_exact_padding)
    found = [item for batch in predict(model, processor, batches) for item in batch]
    return score_detections(dataset.to_coco(split), found).summary


def test_it_detects(tmp_path):
    """On twenty of the held-out scenes, where AP scatters; the card's number is that of all 500."""
    measured = json.loads(MEASURED.read_text())["held_out"]
    assert score(tmp_path, 20)["AP50"] > measured["AP50"] - 15


@pytest.mark.slow
def test_its_ap_is_the_cards(tmp_path):
    """About two minutes."""
    measured = json.loads(MEASURED.read_text())
    found = score(tmp_path, measured["held_out_images"])
    assert {name: found[name] for name in measured["held_out"]} == pytest.approx(measured["held_out"], abs=0.1)


def test_the_committed_card_is_the_rendered_one(repository):
    card = (repository / "model_cards" / f"{NAME}.md").read_text(encoding="utf-8")
    assert card == bundled_card(), "run python model_cards/render.py"
    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    numbers = {metric["type"]: metric["value"] for result in index["results"] for metric in result["metrics"]}
    measured = json.loads(MEASURED.read_text())
    assert numbers == {f"box_{name.lower()}": round(value, 2) for name, value in measured["held_out"].items()}
    parameters = sum(value.numel() for value in DetrForObjectDetection.from_pretrained(FOLDER).parameters())
    assert measured["parameters"] == parameters
    curve = np.array([point["AP"] for stage in measured["stages"] for point in stage["curve"]])
    assert len(curve) >= 3
    assert curve[-1] == curve.max()


def test_the_cards_snippet_runs(repository, capsys):
    card = (repository / "model_cards" / f"{NAME}.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    exec(snippet, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed
    assert {line.split()[0] for line in printed} <= set(CLASS_NAMES)
