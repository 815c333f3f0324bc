from __future__ import annotations

import pytest
import torch

from transformers_detr import DetrForSegmentation
from transformers_detr.training.model_surgery import PARTS, freeze, resize_queries, set_classes, train_whole_backbone


@pytest.fixture
def images():
    torch.manual_seed(3)
    return torch.randn(2, 3, 64, 64)


def test_classes_of_the_same_name_keep_their_weights(tiny_model):
    model = tiny_model("dog", "Traffic Light", "cat")
    before = model.class_labels_classifier.weight.clone()
    assert set_classes(model, ["car", "cat", "traffic light", "bus"]) == ["cat", "traffic light"]
    after = model.class_labels_classifier.weight
    assert after.shape == (5, 32)
    assert torch.equal(after[[1, 2, 4]], before[[2, 1, 3]])
    assert model.config.num_labels == 4
    assert model.config.id2label == {0: "car", 1: "cat", 2: "traffic light", 3: "bus"}
    assert model.config.label2id == {"car": 0, "cat": 1, "traffic light": 2, "bus": 3}


def test_the_same_classes_change_nothing(tiny_model):
    model = tiny_model("dog", "cat")
    classifier = model.class_labels_classifier
    assert set_classes(model, ["dog", "cat"]) == ["dog", "cat"]
    assert model.class_labels_classifier is classifier


def test_new_classes_survive_saving(tiny_model, images, tmp_path):
    model = tiny_model().eval()
    set_classes(model, ["a", "b"])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.id2label == {0: "a", 1: "b"}
    with torch.no_grad():
        torch.testing.assert_close(again(images).logits, model(images).logits)


def test_stuff_stays_stuff(tiny_model):
    model = tiny_model("dog", "sky", "grass", label_ids_to_fuse=[1, 2])
    set_classes(model, ["Grass", "tree", "dog"])
    assert model.config.label_ids_to_fuse == [0]


def test_a_segmentation_model_gets_queries_too(tiny_model):
    detector = tiny_model(encoder_attention_heads=8, decoder_attention_heads=8)
    model = DetrForSegmentation.from_detector(detector)
    resize_queries(model, 7)
    assert len(detector.model.query_position_embeddings.weight) == model.config.num_queries == 7


def test_fewer_queries_are_the_first_ones(tiny_model, images):
    model = tiny_model().eval()
    before = model.model.query_position_embeddings.weight.clone()
    resize_queries(model, 7)
    assert torch.equal(model.model.query_position_embeddings.weight, before[:7])
    assert model(images).logits.shape[1] == 7


def test_more_queries_are_near_copies_of_the_first_ones(tiny_model, images, tmp_path):
    model = tiny_model().eval()
    before = model.model.query_position_embeddings.weight.clone()
    resize_queries(model, 50)
    after = model.model.query_position_embeddings.weight
    assert torch.equal(after[:20], before)
    assert torch.nn.functional.cosine_similarity(after[20:], before[torch.arange(20, 50) % 20]).min() > 0.9
    assert len(after.unique(dim=0)) == 50
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path)(images).logits.shape[1] == 50


def test_no_queries_are_refused(tiny_model):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        resize_queries(tiny_model(), 0)


@pytest.mark.parametrize("part", [*PARTS, "model.encoder.layers.0.fc1"])
def test_frozen_parts_do_not_learn_and_the_others_do(tiny_model, part):
    model = tiny_model()
    train_whole_backbone(model)
    freeze(model, [part])
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(PARTS.get(part, part))}
    assert frozen


def test_every_parameter_belongs_to_one_part(tiny_model):
    for name, _ in tiny_model().named_parameters():
        assert sum(name.startswith(beginning) for beginning in PARTS.values()) == 1, name


def test_an_unknown_part_is_named(tiny_model):
    with pytest.raises(ValueError, match="'tail' is no part of the model; parts are backbone"):
        freeze(tiny_model(), ["tail"])
