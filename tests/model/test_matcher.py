"""Matching against the golden pairs, stock's matcher, and the best of all assignments."""

import itertools
import logging

import pytest
import torch
from transformers.loss.loss_for_object_detection import HungarianMatcher

from model.loss_cases import (
    GOLDEN_CASES,
    golden_labels,
    random_labels,
    random_predictions,
    stack_layers,
    targets_for,
)
from transformers_detr.model.matcher_detr import MatchingCosts, match, pair_costs

COSTS = MatchingCosts()


def pairs_by_layer_then_image(matching, targets):
    """The pairs as lists of (query, index among the image's own objects), sorted by query."""
    first = torch.tensor([0, *targets.counts]).cumsum(0)
    return [
        [
            sorted(
                (int(query), int(target - first[image]))
                for image_of, query, target in zip(*layer, strict=True)
                if image_of == image
            )
            for image in range(len(targets.counts))
        ]
        for layer in zip(matching.image, matching.query, matching.target, strict=True)
    ]


@pytest.mark.parametrize(("variant", "case_name"), GOLDEN_CASES)
def test_pairs_are_the_originals(golden_json, golden_tensors, variant, case_name):
    case = golden_json(f"{variant}.loss.json")["cases"][case_name]
    logits, boxes = stack_layers(golden_tensors(f"{variant}.outputs.safetensors"))
    labels = golden_labels(case)
    targets = targets_for(logits, labels)
    pairs = pairs_by_layer_then_image(match(logits.log_softmax(-1), boxes, targets, COSTS), targets)
    assert case["indices_stable"]
    assert len(pairs) == len(case["indices_by_layer_then_image"])

    def contents(image, pairs):
        """Pairs of query and object, the object by its content, since equal objects may swap."""
        target = case["targets"][image]
        return [(query, target["labels"][i], target["boxes"][i]) for query, i in pairs]

    for ours, golden in zip(pairs, case["indices_by_layer_then_image"], strict=True):
        for image, (queries, objects) in enumerate(golden):
            assert len({i for _, i in ours[image]}) == len(queries)
            assert contents(image, ours[image]) == contents(image, zip(queries, objects, strict=True))


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (12, 1)])
def test_pairs_are_those_of_stock(counts):
    logits, boxes = random_predictions()
    labels = random_labels(counts)
    targets = targets_for(logits, labels)
    ours = pairs_by_layer_then_image(match(logits.log_softmax(-1), boxes, targets, COSTS), targets)
    stock = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    for layer, pairs in enumerate(ours):
        theirs = stock({"logits": logits[layer], "pred_boxes": boxes[layer]}, labels)
        assert pairs == [list(zip(queries.tolist(), objects.tolist(), strict=True)) for queries, objects in theirs]


def test_no_assignment_is_cheaper():
    logits, boxes = random_predictions(layers=1, images=1, queries=5)
    targets = targets_for(logits, random_labels([3]))
    cost = pair_costs(logits.log_softmax(-1), boxes, targets, COSTS)[:, 0]  # (N, Q)
    best = min(sum(cost[n, q] for n, q in enumerate(p)) for p in itertools.permutations(range(5), 3))
    matching = match(logits.log_softmax(-1), boxes, targets, COSTS)
    torch.testing.assert_close(cost[matching.target[0], matching.query[0]].sum(), best)


def test_the_cost_of_one_pair():
    logits = torch.tensor([0.0, 1.0, 0.0]).reshape(1, 1, 1, 3)
    predicted = torch.tensor([0.5, 0.5, 0.2, 0.2]).reshape(1, 1, 1, 4)
    label = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}
    cost = pair_costs(
        logits.log_softmax(-1), predicted, targets_for(logits, [label]), MatchingCosts(class_=2, bbox=3, giou=5)
    )
    probability = torch.e / (2 + torch.e)
    torch.testing.assert_close(cost.flatten(), torch.tensor([3 * 0.2 - 2 * probability - 5 * 0.5]))


def test_an_image_is_matched_as_if_alone():
    logits, boxes = random_predictions(images=3)
    labels = random_labels([4, 0, 6])
    targets = targets_for(logits, labels)
    together = pairs_by_layer_then_image(match(logits.log_softmax(-1), boxes, targets, COSTS), targets)
    for image in range(3):
        own = slice(image, image + 1)
        targets = targets_for(logits[:, own], labels[own])
        alone = pairs_by_layer_then_image(match(logits[:, own].log_softmax(-1), boxes[:, own], targets, COSTS), targets)
        assert [layer[0] for layer in alone] == [layer[image] for layer in together]


def test_no_objects_give_no_pairs():
    logits, boxes = random_predictions(layers=4)
    matching = match(logits.log_softmax(-1), boxes, targets_for(logits, random_labels([0, 0])), COSTS)
    assert matching.image.shape == matching.query.shape == matching.target.shape == (4, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_not_finite_come_last(bad, caplog):
    logits, boxes = random_predictions(layers=2, images=2, queries=6)
    boxes[1, 1, :3] = bad
    targets = targets_for(logits, random_labels([2, 4]))
    with caplog.at_level(logging.WARNING):
        matching = match(logits.log_softmax(-1), boxes, targets, COSTS)
    queries = matching.query[1][matching.image[1] == 1]
    assert {3, 4, 5} <= set(queries.tolist())
    assert len(set(queries.tolist())) == 4
    assert len(caplog.records) == 1
    assert "image 1 of the batch are not finite" in caplog.text


def test_nothing_finite_is_still_matched(caplog):
    logits, boxes = random_predictions()
    matching = match(logits.log_softmax(-1) * torch.nan, boxes, targets_for(logits, random_labels([2, 4])), COSTS)
    assert matching.query.shape == (3, 6)
    assert "image 0, 1 of the batch" in caplog.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_matched_in_full(dtype):
    logits, boxes = (tensor.to(dtype) for tensor in random_predictions())
    targets = targets_for(logits, random_labels([3, 5]))
    half, full = (
        match(logits.log_softmax(-1), boxes, targets, COSTS),
        match(logits.log_softmax(-1).float(), boxes.float(), targets, COSTS),
    )
    torch.testing.assert_close(half.query, full.query, rtol=0, atol=0)
    assert pair_costs(logits.log_softmax(-1), boxes, targets, COSTS).dtype == torch.float32
