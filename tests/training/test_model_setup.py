from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from training.conftest import TINY
from transformers_detr import DetrForObjectDetection, DetrForSegmentation
from transformers_detr.training.model_setup import edges_for, fine_tuning_defaults, set_up_model
from transformers_detr.training.recipes import Recipe, write_recipe


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
    start = set_up_model(model_folder, scenes, size=128)
    assert dict(start.processor.size) == {"shortest_edge": 128, "longest_edge": 192}
    assert max(start.training["edges"]) == 128
    assert start.training["longest_edge"] == 192


def test_queries_follow_the_fullest_image_or_the_wish(model_folder, scenes):
    assert set_up_model(model_folder, scenes).model.config.num_queries == 20
    assert set_up_model(model_folder, scenes, queries=5).model.config.num_queries == 5
    full = scenes.split("train")[0]
    objects = tuple(item for image in scenes.split("train") for item in image.objects)
    crowded = replace(scenes, splits={**scenes.splits, "train": (replace(full, objects=objects),)})
    start = set_up_model(model_folder, crowded)
    wanted = sum(not item.iscrowd for item in objects)
    assert start.model.config.num_queries == wanted > 20
    assert f"Queries: 20 → {wanted} (an image holds {wanted} objects)." in start.notes


@pytest.fixture
def detector_folder(tiny_model, processor, tmp_path, scenes):
    """A detector that masks can be put on, of the classes of the scenes but for the last, by default."""

    def write(names=scenes.class_names[:-1]):
        tiny_model(*names, encoder_attention_heads=8, decoder_attention_heads=8).save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        return str(tmp_path)

    return write


def learning(model):
    return {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}


def test_masks_are_put_on_a_detector(detector_folder, scenes):
    start = set_up_model(detector_folder(scenes.class_names), scenes, masks=True)
    assert isinstance(start.model, DetrForSegmentation)
    assert learning(start.model) == {"bbox_attention", "mask_head"}
    assert start.notes[-1] == "Masks: the mask head is new; the detector is frozen."
    assert start.training["masks"]


def test_a_detector_of_other_classes_learns_along(detector_folder, scenes):
    start = set_up_model(detector_folder(), scenes, masks=True)
    assert learning(start.model) == {"detr", "bbox_attention", "mask_head"}
    backbone = start.model.detr.model.backbone.conv_encoder.model
    assert not any(value.requires_grad for value in backbone.conv1.parameters())
    assert "is trained too" in start.notes[-1]


def test_a_segmentation_model_goes_on_with_its_masks(detector_folder, scenes, tmp_path):
    folder = detector_folder()
    model = DetrForSegmentation.from_detector(DetrForObjectDetection.from_pretrained(folder))
    model.save_pretrained(folder)
    start = set_up_model(folder, scenes, queries=9)
    assert start.training["masks"]
    assert start.model.config.id2label == scenes.id2label
    assert start.model.detr.class_labels_classifier.out_features == len(scenes.class_names) + 1
    assert start.model.config.num_queries == 9
    for name, value in model.mask_head.state_dict().items():
        assert torch.equal(start.model.mask_head.state_dict()[name], value)


def test_masks_need_masks_and_a_trained_detector(detector_folder, scenes):
    image = next(image for image in scenes.split("train") if image.objects)
    without = replace(image, objects=(replace(image.objects[0], segmentation=None), *image.objects[1:]))
    lacking = replace(scenes, splits={**scenes.splits, "train": (without,)})
    message = (
        f"image {image.id}, annotation {image.objects[0].id}: has no mask; training masks needs one for each object"
    )
    with pytest.raises(ValueError, match=message):
        set_up_model(detector_folder(), lacking, masks=True)
    with pytest.raises(ValueError, match="masks need a trained detector"):
        set_up_model("scenes", scenes, masks=True)


@pytest.fixture
def recipe_file(tmp_path):
    """A recipe for a fresh model with timm's smallest backbone."""
    recipe = Recipe(model=TINY, training={"train_batch_norm": True})
    write_recipe(recipe, tmp_path / "recipe.yaml", "a test")
    return str(tmp_path / "recipe.yaml")


def test_a_small_recipe_warns_of_little_data(recipe_file, scenes):
    start = set_up_model(recipe_file, scenes)
    assert "10 images are few" in start.warnings[0]
    assert start.model.config.id2label == scenes.id2label
    assert start.training["train_batch_norm"]


def test_a_recipes_backbone_can_start_from_weights_in_a_file(recipe_file, scenes, tmp_path):
    torch.manual_seed(7)
    backbone = timm.create_model("test_resnet")
    save_file(backbone.state_dict(), tmp_path / "backbone.safetensors")
    start = set_up_model(recipe_file, scenes, backbone_weights=tmp_path / "backbone.safetensors")
    weights = start.model.model.backbone.conv_encoder.model.state_dict()
    assert torch.equal(weights["layer4.0.conv1.weight"], backbone.state_dict()["layer4.0.conv1.weight"])
    assert torch.equal(weights["bn1.weight"], backbone.state_dict()["bn1.weight"])
    start.model.save_pretrained(tmp_path / "model")
    assert "backbone.safetensors" not in (tmp_path / "model" / "config.json").read_text()


def test_weights_of_another_backbone_are_refused(recipe_file, scenes, tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="no weights for test_resnet: 75 are missing, such as bn1"):
        set_up_model(recipe_file, scenes, backbone_weights=tmp_path / "backbone.safetensors")


def test_backbone_weights_are_refused_where_they_make_no_sense(model_folder, scenes, tmp_path):
    with pytest.raises(ValueError, match="is pretrained"):
        set_up_model(model_folder, scenes, backbone_weights=tmp_path / "backbone.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file of backbone weights"):
        set_up_model("scenes", scenes, backbone_weights=tmp_path / "none.safetensors")
