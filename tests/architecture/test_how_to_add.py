"""CONTRIBUTING says what to change for a loss term or a dataset format; one of each is added here, and nothing else."""

import sys
import types
from pathlib import Path

import pytest
import torch
from tiny_detr import padded_batch, tiny_config

from transformers_detr import DetectionDataset, DetrForObjectDetection
from transformers_detr.data import readers
from transformers_detr.data.records import ImageRecord, ObjectRecord, ReadDataset
from transformers_detr.model import loss_detr
from transformers_detr.training.training_aids import add_training_aids

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
LABELS = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]


@pytest.mark.parametrize("file", ["model/loss_detr.py", "data/readers.py", "backends/registry.py", "cli/__init__.py"])
def test_the_guide_names_files_that_exist(file):
    assert f"`{file}`" in GUIDE
    assert (Path(loss_detr.__file__).parents[1] / file).is_file()


@pytest.mark.parametrize("aids", [False, True], ids=["plain", "training aids"])
def test_a_loss_term_is_a_function_and_a_row(monkeypatch, aids):
    def center_distance(matched, scale):
        return (matched.boxes - matched.target_boxes)[..., :2].abs().sum((1, 2)) / scale.num_boxes

    torch.manual_seed(0)
    config = tiny_config(auxiliary_loss=True, dropout=0.0)
    model = DetrForObjectDetection(config).train()
    if aids:
        add_training_aids(model, token_weight=1.0)
    pixel_values, pixel_mask = padded_batch([(64, 96)])
    inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask, "labels": LABELS}
    before = model(**inputs)
    config.center_coefficient = 3.0
    row = loss_detr.LossTerm(center_distance, coefficient="center_coefficient")
    monkeypatch.setitem(loss_detr.LOSS_TERMS, "loss_center", row)
    after = model(**inputs)
    added = {name: value for name, value in after.loss_dict.items() if "loss_center" in name}
    assert len(added) >= config.decoder_layers, "each layer has it"
    assert added["loss_center"] > 0
    assert after.loss.item() > before.loss.item()
    if not aids:
        expected = before.loss + 3 * sum(added.values())
        assert after.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_dataset_format_is_a_file_and_a_row(monkeypatch, tmp_path):
    module = types.ModuleType("transformers_detr.data.points")
    module.find = lambda path: path / "points.txt" if (path / "points.txt").is_file() else None

    def read(name, layout, split, report):
        x, y = map(float, layout.read_text().split())
        item = ObjectRecord(id=1, label=0, box_xywh_px=(x - 1, y - 1, 2, 2), area=4)
        return ReadDataset(("point",), {"train": (ImageRecord(7, tmp_path / "a.png", 10, 20, (item,), layout),)})

    module.read = read
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = readers.DatasetReader("Points", "points.txt", "points", "corner and size")
    monkeypatch.setitem(readers.READERS, "points", row)
    (tmp_path / "points.txt").write_text("4 5")
    dataset = DetectionDataset.load(tmp_path)
    assert (dataset.format, dataset.class_names) == ("points", ("point",))
    assert dataset.split("train").to_coco()["annotations"][0]["bbox"] == [3, 4, 2, 2]
