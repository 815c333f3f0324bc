from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from transformers_detr.training.starting_points import edges_for, fine_tuning_defaults, starting_point


def test_training_sizes_are_to_the_models_as_the_papers_are_to_its_800():
    assert edges_for({"shortest_edge": 800, "longest_edge": 1333}) == {
        "edges": [500, 550, 600, 650, 700, 750, 800],
        "longest_edge": 1333,
    }
    assert edges_for({"height": 640, "width": 480})["edges"][-1] == 480
    assert edges_for({"shortest_edge": 64})["longest_edge"] == 64


@pytest.mark.parametrize("images", [10, 200, 3000, 100_000])
def test_fewer_images_are_seen_more_often_and_varied_more(images):
    some, more = fine_tuning_defaults(images), fine_tuning_defaults(10 * images)
    assert some["num_train_epochs"] >= more["num_train_epochs"] >= 12
    assert some["learning_rate"] <= more["learning_rate"] <= 1e-4
    assert some["augmentation"] == ("small-data" if images < 5000 else "paper")


@pytest.fixture
def model_folder(tiny_model, processor, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return str(tmp_path)


def test_the_size_can_be_chosen(model_folder, scenes):
    start = starting_point(model_folder, scenes, size=128)
    assert dict(start.processor.size) == {"shortest_edge": 128, "longest_edge": 192}
    assert max(start.training["edges"]) == 128
    assert start.training["longest_edge"] == 192


def test_queries_follow_the_fullest_image_or_the_wish(model_folder, scenes):
    assert starting_point(model_folder, scenes).model.config.num_queries == 20
    assert starting_point(model_folder, scenes, queries=5).model.config.num_queries == 5
    full = scenes.split("train")[0]
    objects = tuple(item for image in scenes.split("train") for item in image.objects)
    crowded = replace(scenes, splits={**scenes.splits, "train": (replace(full, objects=objects),)})
    start = starting_point(model_folder, crowded)
    wanted = sum(not item.iscrowd for item in objects)
    assert start.model.config.num_queries == wanted > 20
    assert f"Queries: 20 → {wanted} (an image holds {wanted} objects)." in start.notes


def test_a_small_recipe_warns_of_little_data(scenes):
    start = starting_point("scenes", scenes)
    assert "10 images are little" in start.warnings[0]
    assert start.model.config.id2label == scenes.id2label
    assert start.training["train_batch_norm"]


def test_a_recipes_trunk_can_start_from_weights_in_a_file(scenes, tmp_path):
    torch.manual_seed(7)
    trunk = timm.create_model("test_resnet")
    save_file(trunk.state_dict(), tmp_path / "trunk.safetensors")
    start = starting_point("scenes", scenes, trunk_weights=tmp_path / "trunk.safetensors")
    weights = start.model.model.backbone.conv_encoder.model.state_dict()
    assert torch.equal(weights["layer4.0.conv1.weight"], trunk.state_dict()["layer4.0.conv1.weight"])
    assert torch.equal(weights["bn1.weight"], trunk.state_dict()["bn1.weight"])
    start.model.save_pretrained(tmp_path / "model")
    assert "trunk.safetensors" not in (tmp_path / "model" / "config.json").read_text()


def test_trunk_weights_are_refused_where_they_make_no_sense(model_folder, scenes, tmp_path):
    with pytest.raises(ValueError, match="is pretrained"):
        starting_point(model_folder, scenes, trunk_weights=tmp_path / "trunk.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file of trunk weights"):
        starting_point("scenes", scenes, trunk_weights=tmp_path / "none.safetensors")
