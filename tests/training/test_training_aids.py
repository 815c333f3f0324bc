from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from transformers_detr.model.targets_detr import read_targets
from transformers_detr.training.training_aids import DetrWithTrainingAids, add_training_aids, assign_tokens


@pytest.fixture
def batch():
    torch.manual_seed(1)
    labels = [
        {"class_labels": torch.tensor([1, 5]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.2]])},
        {"class_labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])},
    ]
    mask = torch.ones(2, 64, 96, dtype=torch.int64)
    mask[1, :, 64:] = 0
    return {"pixel_values": torch.randn(2, 3, 64, 96), "pixel_mask": mask, "labels": labels}


def test_without_helpers_the_loss_is_the_plain_models(tiny_model, batch):
    model = tiny_model(dropout=0.0).train()
    plain = model(**batch)
    add_training_aids(model)
    assisted = model(**batch)
    torch.testing.assert_close(assisted.loss, plain.loss)
    torch.testing.assert_close(assisted.logits, plain.logits)
    assert assisted.loss_dict.keys() == plain.loss_dict.keys()


def test_a_group_is_decoded_and_matched_as_if_it_were_alone(tiny_model, batch):
    model = tiny_model(dropout=0.0).train()
    add_training_aids(model, query_groups=3)
    together = model(**batch).loss
    losses = []
    for queries in (model.model.query_position_embeddings.weight, *model.extra_queries.weight.split(20)):
        alone = tiny_model(dropout=0.0).train()
        alone.model.query_position_embeddings = nn.Embedding.from_pretrained(queries.detach().clone())
        losses.append(alone(**batch).loss)
    torch.testing.assert_close(together, torch.stack(losses).mean())


def test_every_group_learns(tiny_model, batch):
    model = tiny_model().train()
    add_training_aids(model, query_groups=2, token_weight=1.0)
    model(**batch).loss.backward()
    assert (model.extra_queries.weight.grad.abs().sum(1) > 0).all()
    assert (model.model.query_position_embeddings.weight.grad.abs().sum(1) > 0).all()


def test_in_evaluation_the_model_is_the_plain_one(tiny_model, batch):
    model = tiny_model().eval()
    wanted = copy.deepcopy(model)(**batch)
    names = set(model.state_dict())
    add_training_aids(model, query_groups=2, token_weight=1.0)
    assert type(model) is DetrWithTrainingAids
    torch.testing.assert_close(model(**batch).logits, wanted.logits)
    assert set(model.state_dict()) - names == {"extra_queries.weight"}
    torch.testing.assert_close(model(**batch).loss, wanted.loss)


def test_token_supervision_teaches_backbone_and_encoder_without_the_decoder(tiny_model, batch):
    model = tiny_model().train()
    add_training_aids(model, token_weight=1.0)
    output = model(**batch)
    (output.loss_dict["loss_tokens"]).backward()
    assert all(parameter.grad is None for parameter in model.model.decoder.parameters())
    assert all(parameter.grad is not None for parameter in model.model.encoder.parameters())
    assert output.loss_dict["loss_tokens"].item() > 0


def targets_of(*images):
    labels = [
        {"class_labels": torch.zeros(len(boxes), dtype=torch.int64), "boxes": torch.tensor(boxes).reshape(-1, 4)}
        for boxes in images
    ]
    return read_targets(labels, batch_size=len(images), num_queries=10, num_classes=1)


def owners(matching, images, shape):
    grid = torch.full((images, shape[0] * shape[1]), -1)
    grid[matching.image[0], matching.query[0]] = matching.target[0]
    return grid.view(images, *shape).tolist()


def test_tokens_near_a_center_answer_for_the_smallest_object():
    targets = targets_of([[0.5, 0.5, 1.0, 1.0], [0.375, 0.375, 0.05, 0.05]], [])
    found = owners(assign_tokens(targets, (4, 4), None), 2, (4, 4))
    assert found[0] == [[-1, -1, -1, -1], [-1, 1, 0, -1], [-1, 0, 0, -1], [-1, -1, -1, -1]]
    assert found[1] == [[-1] * 4] * 4


def test_tokens_are_placed_in_the_unpadded_image():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :, :2] = True  # the image is the left half
    targets = targets_of([[0.75, 0.125, 0.1, 0.1]])
    found = owners(assign_tokens(targets, (4, 4), mask.flatten(1)), 1, (4, 4))
    assert found[0] == [[-1, 0, -1, -1], *[[-1] * 4] * 3]


def test_only_plain_detectors_get_helpers(tiny_model):
    with pytest.raises(TypeError, match="DetrModel"):
        add_training_aids(tiny_model().model)
    with pytest.raises(ValueError, match="query_groups must be at least 1, got 0"):
        add_training_aids(tiny_model(), query_groups=0)


def test_tokens_can_learn_alone(tiny_model, batch):
    model = tiny_model(dropout=0.0).train()
    add_training_aids(model, query_groups=2, token_weight=2.0)
    model.tokens_only = True
    alone = model(**batch)
    alone.loss.backward()
    assert alone.loss.item() == pytest.approx(2 * alone.loss_dict["loss_tokens"].item())
    decoder = [*model.model.decoder.parameters(), model.extra_queries.weight]
    assert not any(value.grad.any() for value in decoder)
    assert all(value.grad.any() for value in model.model.encoder.parameters())
    model.tokens_only = False
    together = model(**batch).loss_dict["loss_tokens"]
    torch.testing.assert_close(together, alone.loss_dict["loss_tokens"])
