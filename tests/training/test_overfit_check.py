from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from transformers_detr import DetrConfig, DetrForObjectDetection, DetrForSegmentation, DetrImageProcessor
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.training import trainer
from transformers_detr.training.overfit_check import IMAGES, OverfitResult, overfit

ARGUMENTS = {"use_cpu": True, "disable_tqdm": True, "edges": [48, 64], "longest_edge": 96, "train_whole_backbone": True}

# A fresh model of 1.3 million weights, whose backbone sees an image in a padded batch as it sees it alone
FRESH = {
    "backbone": "mobilenetv4_conv_small_050",
    "exact_padding": True,
    "dilation": True,
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "num_queries": 40,
    "dropout": 0.0,
    "auxiliary_loss": True,
}


def test_eight_images_are_trained_on_and_scored_and_nothing_is_written(tiny_model, processor, scenes, tmp_path, capsys):
    model, before = tiny_model(), tiny_model().state_dict()
    result = overfit(model, processor, scenes, {**ARGUMENTS, "output_dir": str(tmp_path)}, steps=2)
    assert 0 <= result.ap <= 100
    assert any(not value.equal(before[name]) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""
    assert len(scenes.split("train")) > IMAGES


def test_with_masks_their_score_counts(tiny_model, processor, scenes, tmp_path, monkeypatch):
    def scored(truth, found, kind="bbox"):
        return SimpleNamespace(summary={"AP": 95.0 if kind == "segm" else 10.0})

    monkeypatch.setattr(trainer, "score_detections", scored)
    model = DetrForSegmentation.from_detector(tiny_model(encoder_attention_heads=8, decoder_attention_heads=8))
    arguments = {**ARGUMENTS, "output_dir": str(tmp_path), "train_whole_backbone": False}
    assert overfit(model, processor, scenes, arguments, steps=2).ap == 95


@pytest.mark.parametrize(
    ("ap", "verdict"),
    [(100, "passed"), (90, "passed"), (89.9, "slow"), (30, "slow"), (29.9, "failed"), (0, "failed")],
)
def test_the_verdict_follows_from_ap(ap, verdict):
    assert OverfitResult(ap).verdict == verdict


@pytest.mark.slow
def test_a_fresh_model_overfits_eight_photos(shared_path, tmp_path):
    """Takes 8 minutes of one core (measured: AP 97 after 1200 of at most 1500 steps)."""
    dataset = DetectionDataset.load(shared_path("data", "coco_mini"), split="val")
    dataset = type(dataset)(dataset.name, dataset.format, dataset.class_names, {"train": dataset.split("val")})
    torch.manual_seed(0)
    model = DetrForObjectDetection(DetrConfig(**FRESH, num_labels=len(dataset.class_names)))
    processor = DetrImageProcessor(size={"shortest_edge": 160, "longest_edge": 240})
    arguments = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "edges": [160],
        "longest_edge": 240,
        "learning_rate": 8e-4,
        "backbone_lr_factor": 1.0,
        "train_whole_backbone": True,
        "train_batch_norm": True,
        "warmup_steps": 50,
    }
    assert overfit(model, processor, dataset, arguments, steps=1500).verdict == "passed"
