"""The set loss against the golden numbers, stock's loss and closed forms."""

import copy
import dataclasses

import pytest
import torch
from torch import multiprocessing
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

from model.loss_cases import (
    GOLDEN_CASES,
    golden_labels,
    random_labels,
    random_predictions,
    stack_layers,
    targets_for,
)
from model.loss_processes import loss_and_gradients, run_process
from transformers_detr import DetrConfig
from transformers_detr.model.loss_detr import (
    LOSS_TERMS,
    LossScale,
    LossTerm,
    box_distance_loss,
    box_giou_loss,
    class_error,
    classification_loss,
    loss_weights,
    mask_dice_loss,
    mask_focal_loss,
    match_predictions,
    set_loss,
    with_matching,
)
from transformers_detr.model.matcher_detr import Matching, MatchingCosts

WEIGHTS = loss_weights(DetrConfig())
GOLDEN_TOLERANCE = {"rtol": 0, "atol": 4e-6}
FACTORS = {"bbox": 3, "giou": 5, "mask": 7, "dice": 11}
UNSCALED = LossScale(num_boxes=1, class_weights=torch.tensor([1, 1, 0.1]), class_sum=torch.ones(1))
# Objects of four images; each of two processes gets two of them.
UNEVEN_BATCHES = [(3, 5, 1, 2), (4, 2, 0, 0), (0, 0, 0, 0)]


def losses(logits, boxes, targets, mask_logits=None, weights=WEIGHTS, no_object=0.1):
    """Total and terms; `mask_logits` is a function of image and query indices."""
    matched = match_predictions(logits, boxes, targets, MatchingCosts())
    pairs = matched.matching
    masks = None if mask_logits is None else mask_logits(pairs.image[-1], pairs.query[-1])
    return set_loss(matched, weights, no_object=no_object, mask_logits=masks)


def golden_masks(tensors, case):
    """Target masks, and the mask logits of matched queries as a leaf with its lookup."""
    logits = tensors["masks/pred_masks_of_matched"].clone().requires_grad_()
    matched = {tuple(pair): row for row, pair in enumerate(case["matched_image_query"])}

    def lookup(image, query):
        return logits[[matched[pair] for pair in zip(image.tolist(), query.tolist(), strict=True)]]

    return [tensors["masks/target_masks_A"], tensors["masks/target_masks_B"]], logits, lookup


@pytest.mark.parametrize(("variant", "case_name"), GOLDEN_CASES)
def test_losses_and_gradients_are_the_originals(golden_json, golden_tensors, variant, case_name):
    golden = golden_json(f"{variant}.loss.json")
    case, tensors = golden["cases"][case_name], golden_tensors(f"{variant}.loss.safetensors")
    logits, boxes = stack_layers(golden_tensors(f"{variant}.outputs.safetensors"))
    logits.requires_grad_()
    boxes.requires_grad_()
    labels, size, lookup = golden_labels(case), None, None
    if case_name == "masks":
        masks, mask_logits, lookup = golden_masks(tensors, case)
        labels = [{**label, "masks": mask} for label, mask in zip(labels, masks, strict=True)]
        size = (352, 326)

    targets = targets_for(logits, labels, mask_size=size)
    total, loss_dict = losses(logits, boxes, targets, mask_logits=lookup)
    total.backward()

    assert loss_dict.keys() == case["losses"].keys()
    # The golden numbers are the original's float32; it lies so far from float64, and so may we.
    slack = {"rtol": 0, "atol": GOLDEN_TOLERANCE["atol"] + case["f32_vs_f64_max_abs_diff"]}
    for name, value in case["losses"].items():
        torch.testing.assert_close(loss_dict[name], torch.tensor(value), **slack, msg=name)
    torch.testing.assert_close(total, torch.tensor(case["total"]), rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad, tensors[f"{case_name}/grad_pred_logits"], **GOLDEN_TOLERANCE)
    torch.testing.assert_close(boxes.grad, tensors[f"{case_name}/grad_pred_boxes"], **GOLDEN_TOLERANCE)
    if lookup is not None:
        expected = tensors["masks/grad_pred_masks_of_matched"]
        torch.testing.assert_close(mask_logits.grad, expected, rtol=1e-5, atol=1e-9)


def stock_loss(logits, boxes, labels, pred_masks=None):
    """Loss dict of stock's criterion, which wants the layers apart."""
    losses = ["labels", "boxes", "cardinality"] + ([] if pred_masks is None else ["masks"])
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    criterion = ImageLoss(matcher, num_classes=logits.shape[-1] - 1, eos_coef=0.1, losses=losses)
    layers = [{"logits": a, "pred_boxes": b} for a, b in zip(logits, boxes, strict=True)]
    outputs = {**layers[-1], "auxiliary_outputs": layers[:-1]}
    return criterion(outputs if pred_masks is None else {**outputs, "pred_masks": pred_masks}, labels)


@pytest.mark.parametrize("counts", [(3, 5), (0, 4), (12, 1), (0, 0)])
def test_losses_are_those_of_stock(counts):
    logits, boxes = random_predictions()
    labels = random_labels(counts)
    _, ours = losses(logits, boxes, targets_for(logits, labels))
    stock = stock_loss(logits, boxes, labels)
    assert ours.keys() - stock.keys() == {"class_error"}
    for name, value in stock.items():
        torch.testing.assert_close(ours[name], value)


def test_mask_losses_are_those_of_stock():
    logits, boxes = random_predictions()
    labels = random_labels([2, 3])
    labels[0]["masks"] = torch.rand(2, 24, 30) > 0.7
    labels[1]["masks"] = torch.rand(3, 32, 17) > 0.3
    pred_masks = torch.randn(2, 12, 8, 8)
    targets = targets_for(logits, labels, mask_size=(32, 30))
    _, ours = losses(logits, boxes, targets, mask_logits=lambda i, q: pred_masks[i, q])
    stock_labels = [{**label, "masks": label["masks"].float()} for label in copy.deepcopy(labels)]
    for name, value in stock_loss(logits, boxes, stock_labels, pred_masks).items():
        torch.testing.assert_close(ours[name], value)


def test_total_is_the_weighted_sum_of_the_terms():
    logits, boxes = random_predictions(layers=2)
    labels = [{**label, "masks": torch.rand(2, 16, 16) > 0.5} for label in random_labels([2, 2])]
    coefficients = {f"{name}_loss_coefficient": factor for name, factor in FACTORS.items()}
    weights = {**loss_weights(DetrConfig(**coefficients)), "loss_ce": 2}
    targets = targets_for(logits, labels, mask_size=(16, 16))
    masks = torch.randn(2, 12, 4, 4)
    total, terms = losses(logits, boxes, targets, lambda i, q: masks[i, q], weights, no_object=0.4)
    factors = {"ce": 2, "bbox": 3, "giou": 5}
    expected = sum(f * terms[f"loss_{name}{layer}"] for name, f in factors.items() for layer in ("", "_0"))
    torch.testing.assert_close(total, expected + 7 * terms["loss_mask"] + 11 * terms["loss_dice"])


def test_a_row_in_the_table_adds_a_term(monkeypatch):
    def box_area_loss(matched, scale):
        return (matched.boxes[..., 2:].prod(-1) - matched.target_boxes[..., 2:].prod(-1)).abs().sum(1) / scale.num_boxes

    logits, boxes = random_predictions(layers=2)
    targets = targets_for(logits, random_labels([2, 3]))
    before, _ = losses(logits, boxes, targets)
    monkeypatch.setitem(LOSS_TERMS, "loss_area", LossTerm(box_area_loss, coefficient="bbox_loss_coefficient"))
    after, terms = losses(logits, boxes, targets, weights=loss_weights(DetrConfig()))
    assert terms["loss_area"] > 0
    torch.testing.assert_close(after, before + 5 * (terms["loss_area"] + terms["loss_area_0"]))


def by_hand(logits, boxes, label, pairs):
    """Predictions of one image matched as `pairs` of image, query and target say."""
    size = tuple(label["masks"].shape[1:]) if "masks" in label else None
    targets = targets_for(logits, [label], mask_size=size)
    matching = Matching(*torch.tensor(pairs).T[:, None])
    return with_matching(logits, logits.log_softmax(-1), boxes, targets, matching)


def test_classification_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).reshape(1, 1, 2, 3)
    label = {"class_labels": torch.tensor([0]), "boxes": torch.full((1, 4), 0.5)}
    matched = by_hand(logits, torch.full((1, 1, 2, 4), 0.5), label, [(0, 0, 0)])
    loss = classification_loss(matched, UNSCALED)
    exp = torch.tensor([2.0, 0.0, 1.0]).exp()
    torch.testing.assert_close(loss, -(exp[0] / exp.sum()).log()[None] + 0.1 * torch.tensor([3.0]).log())


def test_weights_of_classes_make_a_weighted_mean():
    """As cross-entropy of torch with weights: divided by the sum of the weights of all queries."""
    logits = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    label = {"class_labels": torch.tensor([0, 2]), "boxes": torch.rand(2, 4) / 2}
    pairs = torch.tensor([[(0, 1, 0), (0, 3, 1)], [(0, 0, 1), (0, 2, 0)]])  # of image, query and target, by layer
    matching = Matching(*pairs.permute(2, 0, 1))
    boxes = torch.full((2, 1, 4, 4), 0.5)
    matched = with_matching(logits, logits.log_softmax(-1), boxes, targets_for(logits, [label]), matching)
    _, terms = set_loss(matched, WEIGHTS, no_object=0.4, class_weights=[3, 5, 0.5])
    for name, layer, classes in (("loss_ce_0", 0, [3, 0, 3, 2]), ("loss_ce", 1, [2, 3, 0, 3])):
        classes = torch.tensor(classes)
        expected = torch.nn.functional.cross_entropy(logits[layer, 0], classes, torch.tensor([3, 5, 0.5, 0.4]))
        torch.testing.assert_close(terms[name], expected)
    with pytest.raises(ValueError, match="class_weights must hold 3 numbers"):
        set_loss(matched, WEIGHTS, no_object=0.4, class_weights=[1, 2])


def test_one_object_is_divided_by_one():
    label = {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}
    matched = by_hand(torch.zeros(1, 1, 1, 3), torch.tensor([[[[0.5, 0.5, 0.2, 0.2]]]]), label, [(0, 0, 0)])
    _, terms = set_loss(matched, WEIGHTS, no_object=0.1)
    torch.testing.assert_close(terms["loss_bbox"], torch.tensor(0.2))
    torch.testing.assert_close(terms["loss_giou"], torch.tensor(0.5))


def test_mask_losses_need_masks_on_both_sides():
    label = {"class_labels": torch.tensor([0]), "boxes": torch.full((1, 4), 0.5)}
    matched = by_hand(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 4), label, [(0, 0, 0)])
    with pytest.raises(ValueError, match=r"^targets must have masks where mask_logits is given$"):
        matched.with_masks(torch.zeros(1, 2, 2))
    for half in ({"mask_logits": torch.zeros(1, 4)}, {"target_masks": torch.zeros(1, 4).bool()}, {}):
        for term in (mask_focal_loss, mask_dice_loss):
            with pytest.raises(ValueError, match=r"^the mask losses need mask_logits$"):
                term(dataclasses.replace(matched, **half), UNSCALED)


def test_boxes_by_hand():
    label = {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}
    predicted = torch.tensor([[[[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]]])
    matched = by_hand(torch.zeros(1, 1, 2, 3), predicted, label, [(0, 1, 0)])
    torch.testing.assert_close(box_distance_loss(matched, UNSCALED), torch.tensor([0.2]))
    torch.testing.assert_close(box_giou_loss(matched, UNSCALED), torch.tensor([0.5]))


def test_masks_by_hand():
    logits = torch.full((1, 2, 2), 2.0)
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 0] = True  # 4 of 16 pixels
    label = {"class_labels": torch.tensor([0]), "boxes": torch.full((1, 4), 0.5), "masks": masks}
    matched = by_hand(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 4), label, [(0, 0, 0)]).with_masks(logits)
    focal, dice = (term(matched, UNSCALED)[0] for term in (mask_focal_loss, mask_dice_loss))
    p = torch.tensor(2.0).sigmoid()
    on, off = -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(focal, (4 * on + 12 * off) / 16)
    torch.testing.assert_close(dice, 1 - (2 * 4 * p + 1) / (16 * p + 4 + 1))


def test_class_error_by_hand():
    logits = functional.one_hot(torch.tensor([0, 1, 2, 2]), 3).float().reshape(1, 1, 4, 3)
    label = {"class_labels": torch.tensor([0, 0, 1]), "boxes": torch.full((3, 4), 0.5)}
    matched = by_hand(logits, torch.zeros(1, 1, 4, 4), label, [(0, 0, 0), (0, 1, 1), (0, 2, 2)])
    torch.testing.assert_close(class_error(matched), torch.tensor(200 / 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_lose_nothing_more(dtype):
    logits, boxes = (tensor.to(dtype) for tensor in random_predictions())
    labels = random_labels([3, 5])
    targets = targets_for(logits, labels)
    expected, _ = losses(logits.float(), boxes.float(), targets)
    logits.requires_grad_()
    boxes.requires_grad_()
    loss, loss_dict = losses(logits, boxes, targets)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert all(value.dtype == torch.float32 for value in loss_dict.values())
    assert logits.grad.dtype == dtype
    assert torch.isfinite(boxes.grad).all()


def test_autocast_changes_nothing():
    logits, boxes = random_predictions()
    labels = [{**label, "masks": torch.rand(3, 16, 16) > 0.5} for label in random_labels([3, 3])]
    targets = targets_for(logits, labels, mask_size=(16, 16))
    masks = torch.randn(2, 12, 4, 4)

    def run():
        return losses(logits, boxes, targets, mask_logits=lambda i, q: masks[i, q])

    plain, plain_terms = run()
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_terms = run()
    torch.testing.assert_close((cast, cast_terms), (plain, plain_terms), rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_mark_the_loss(bad, caplog):
    logits, boxes = random_predictions()
    logits[0, 1, 4, 2] = bad
    loss, _ = losses(logits, boxes, targets_for(logits, random_labels([2, 3])))
    assert not torch.isfinite(loss)
    assert "image 1 of the batch are not finite" in caplog.text


def test_without_objects_every_prediction_has_a_gradient():
    logits, boxes = (tensor.requires_grad_() for tensor in random_predictions())
    masks = torch.randn(2, 12, 4, 4, requires_grad=True)
    labels = [{**label, "masks": torch.zeros(0, 16, 16)} for label in random_labels([0, 0])]
    targets = targets_for(logits, labels, mask_size=(16, 16))
    loss, terms = losses(logits, boxes, targets, mask_logits=lambda i, q: masks[i, q])
    loss.backward()
    assert terms["class_error"] == 100
    assert logits.grad.abs().sum() > 0
    assert boxes.grad.abs().sum() == 0
    assert masks.grad.abs().sum() == 0


def test_without_objects_no_object_may_weigh_nothing():
    logits, boxes = random_predictions()
    targets = targets_for(logits, random_labels([0, 0]))
    loss, _ = losses(logits, boxes, targets, no_object=0)
    assert loss == 0


def test_one_layer_has_no_suffixes():
    logits, boxes = random_predictions(layers=1)
    _, terms = losses(logits, boxes, targets_for(logits, random_labels([2, 3])))
    assert set(terms) == {"loss_ce", "loss_bbox", "loss_giou", "cardinality_error", "class_error"}


def test_masks_must_be_there():
    logits, boxes = random_predictions()
    targets = targets_for(logits, random_labels([2, 3]))
    with pytest.raises(ValueError, match="targets must have masks"):
        losses(logits, boxes, targets, mask_logits=lambda i, q: torch.zeros(len(i), 4, 4))


@pytest.fixture(scope="module")
def shares_of_two_processes(tmp_path_factory):
    """What each of two processes computes of each batch in `UNEVEN_BATCHES`."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(run_process, (2, folder, UNEVEN_BATCHES), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("batch", range(len(UNEVEN_BATCHES)), ids=lambda batch: str(UNEVEN_BATCHES[batch]))
def test_two_processes_are_one_with_the_doubled_batch(shares_of_two_processes, batch):
    parts = [shares[batch] for shares in shares_of_two_processes]
    whole = loss_and_gradients(UNEVEN_BATCHES[batch], 0, 4)
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close((parts[0]["loss"] + parts[1]["loss"]) / 2, whole["loss"], **close)
    for name in ("logits", "boxes"):
        # Averaged over the processes, as DistributedDataParallel does.
        torch.testing.assert_close(torch.cat([part[name] / 2 for part in parts], dim=1), whole[name], **close)
    for name in whole["loss_dict"].keys() - {"class_error"}:  # a mean over its own matches
        mean = sum(part["loss_dict"][name] for part in parts) / 2
        torch.testing.assert_close(mean, whole["loss_dict"][name], **close)


class CountWaits(TorchDispatchMode):
    """Count operations that make the host wait for the values of a tensor, wherever that lies."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += any(name in function.__name__ for name in self.WAITING)
        return function(*args, **(kwargs or {}))


def test_the_host_waits_once_for_all_layers(monkeypatch):
    logits, boxes = (tensor.requires_grad_() for tensor in random_predictions(layers=6))
    targets = targets_for(logits, random_labels([5, 7]))
    transfers, to_host = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: transfers.append(tensor.shape) or to_host(tensor))
    with CountWaits() as waits:
        losses(logits, boxes, targets)[0].backward()
    assert transfers == [(12, 6, 12)]  # the costs, (T, L, Q)
    assert waits.count == 0
