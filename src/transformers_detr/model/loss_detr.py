"""The set loss: each term on its own, then all of them, weighted, over all decoder layers.

Everything is computed in float32, whatever the model's dtype. Each term is a sum over the batch divided by
a mean over the processes, so that averaged gradients are those of one process with all the images. For boxes
and masks the original does the same; the classes it divides by the process's own sum of weights, so that an
image counts more on a process with few objects. In one process there is no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional

from .boxes_detr import cxcywh_to_xyxy, elementwise_generalized_box_iou
from .matcher_detr import Matching, MatchingCosts, match
from .targets_detr import Targets


@dataclass(frozen=True)
class MatchedPredictions:
    """The predictions of all decoder layers beside their targets: the input of each loss term, all in float32.

    Attributes:
        logits: `(L, B, Q, C + 1)`, the last layer last; the last column is "no object".
        log_probabilities: `(L, B, Q, C + 1)`, the log-softmax of the logits.
        targets: the objects of the batch.
        matching: the matched pairs.
        target_classes: `(L, B, Q)` int64, the class of each query's object, else "no object".
        boxes: `(L, M, 4)`, predicted boxes of the matched queries, cxcywh relative to the unpadded image.
        target_boxes: `(L, M, 4)`, the boxes of their objects.
        mask_logits: `(M, H · W)` of the matched queries of the last layer, at the size of the targets, or None.
        target_masks: `(M, H · W)` bool, the masks of their objects, or None.
    """

    logits: Tensor
    log_probabilities: Tensor
    targets: Targets
    matching: Matching
    target_classes: Tensor
    boxes: Tensor
    target_boxes: Tensor
    mask_logits: Tensor | None = None
    target_masks: Tensor | None = None

    def with_masks(self, mask_logits: Tensor) -> MatchedPredictions:
        """Add the mask logits `(M, h, w)` of the matched queries of the last layer.

        They are brought to the size of the target masks by bilinear interpolation.

        Raises:
            ValueError: the targets have no masks.
        """
        if self.targets.masks is None:
            raise ValueError("targets must have masks where mask_logits is given")
        masks = self.targets.masks[self.matching.target[-1]]
        resized = functional.interpolate(mask_logits.float()[:, None], masks.shape[1:], mode="bilinear")
        return dataclasses.replace(self, mask_logits=resized.flatten(1), target_masks=masks.flatten(1))


class LossScale(NamedTuple):
    """Divisors of the terms.

    Attributes:
        num_boxes: number of objects, at least 1; divides the terms of matched pairs.
        class_weights: `(C + 1,)`, weight of each class in the classification loss, and last of "no object".
        class_sum: sum of the weights of a layer's queries, `(L,)`; divides the classification loss.
    """

    num_boxes: Tensor | float
    class_weights: Tensor
    class_sum: Tensor


class LossTerm(NamedTuple):
    """One row of `LOSS_TERMS`.

    Attributes:
        compute: function of the matched predictions and the scale; returns `(L,)`, or `(1,)` for the last layer.
        coefficient: field of the configuration with the term's weight; None for a weight of 1.
        needs_masks: whether the term is left out where no masks are predicted.
    """

    compute: Callable[[MatchedPredictions, LossScale], Tensor]
    coefficient: str | None
    needs_masks: bool = False


def match_predictions(logits: Tensor, pred_boxes: Tensor, targets: Targets, costs: MatchingCosts) -> MatchedPredictions:
    """Match the queries of each layer with the objects.

    Non-finite predictions do not stop the matching, which warns. They make the loss non-finite, and so mark
    the step as one to skip, in every process, since gradients are averaged.

    Args:
        logits: `(L, B, Q, C + 1)` of all decoder layers, the last layer last; the last column is "no object".
        pred_boxes: `(L, B, Q, 4)`, cxcywh relative to the unpadded image.
        targets: the objects of the batch.
        costs: weights in the matching.
    """
    logits, pred_boxes = logits.float(), pred_boxes.float()
    log_probabilities = logits.log_softmax(-1)
    matching = match(log_probabilities, pred_boxes, targets, costs)
    return with_matching(logits, log_probabilities, pred_boxes, targets, matching)


def with_matching(
    logits: Tensor, log_probabilities: Tensor, pred_boxes: Tensor, targets: Targets, matching: Matching
) -> MatchedPredictions:
    """Put predictions, as in `match_predictions` but in float32, beside their targets, for a matching that is known."""
    layer = torch.arange(len(logits), device=logits.device)[:, None]
    target_classes = torch.full(logits.shape[:3], logits.shape[3] - 1, device=logits.device)
    target_classes[layer, matching.image, matching.query] = targets.class_labels[matching.target]
    return MatchedPredictions(
        logits=logits,
        log_probabilities=log_probabilities,
        targets=targets,
        matching=matching,
        target_classes=target_classes,
        boxes=pred_boxes[layer, matching.image, matching.query],
        target_boxes=targets.boxes_cxcywh[matching.target],
    )


def set_loss(
    matched: MatchedPredictions,
    weights: Mapping[str, float],
    *,
    no_object: float,
    class_weights: Sequence[float] | None = None,
    mask_logits: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the total loss of a batch and its terms.

    Args:
        matched: the predictions and their targets, from `match_predictions`.
        weights: the weight of each term in the total, from `loss_weights`.
        no_object: weight of "no object" in the classification loss.
        class_weights: weight of each of the `C` classes in the classification loss; None for 1.
        mask_logits: mask logits `(M, h, w)` of the matched queries of the last layer, in the order of the matching,
            also where nothing is matched. Needs `targets.masks`.

    Returns:
        The total, a scalar, and the terms before weighting, scalars: `loss_ce`, `loss_bbox`, `loss_giou`,
        `cardinality_error`, `class_error` and, with masks, `loss_mask`, `loss_dice` of the last layer; then
        the first three and `cardinality_error` with suffix `_0`, `_1`, … of the layers before. The total leaves
        the two errors out.

    Raises:
        ValueError: `mask_logits` is given and the targets have no masks, or there is not one weight per class.
    """
    if mask_logits is not None:
        matched = matched.with_masks(mask_logits)
    terms = loss_terms(matched, _scale(matched, weights_of_classes(matched, no_object, class_weights)))
    total = weighted_sum(terms, weights)
    terms["cardinality_error"] = cardinality_error(matched)
    last = {name: values[-1] for name, values in terms.items()}
    last["class_error"] = class_error(matched)
    before = {
        f"{name}_{layer}": values[layer]
        for layer in range(len(matched.logits) - 1)
        for name, values in terms.items()
        if len(values) > 1
    }
    return total, last | before


def loss_terms(matched: MatchedPredictions, scale: LossScale) -> dict[str, Tensor]:
    """Compute each term of `LOSS_TERMS`, `(L,)`, or `(1,)` where it exists for the last layer only."""
    has_masks = matched.mask_logits is not None
    return {
        name: term.compute(matched, scale) for name, term in LOSS_TERMS.items() if has_masks or not term.needs_masks
    }


def loss_weights(config: Any) -> dict[str, float]:
    """Read the weight of each term from the coefficients of a `DetrConfig`."""
    return {
        name: 1.0 if term.coefficient is None else getattr(config, term.coefficient)
        for name, term in LOSS_TERMS.items()
    }


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum terms `(L,)`, or `(1,)` for the last layer, over the layers, each times its weight."""
    layers = max(len(values) for values in terms.values())
    padded = [functional.pad(weights[name] * values, (layers - len(values), 0)) for name, values in terms.items()]
    total = padded[0]
    for values in padded[1:]:
        total = total + values
    return total.sum()


def classification_loss(matched: MatchedPredictions, scale: LossScale) -> Tensor:
    """Cross-entropy `(L,)`, weighted by class, of all images and queries."""
    log_probabilities, classes = matched.log_probabilities, matched.target_classes.flatten()
    loss = functional.nll_loss(log_probabilities.flatten(0, 2), classes, scale.class_weights, reduction="none")
    return loss.view(len(log_probabilities), -1).sum(1) / scale.class_sum


def box_distance_loss(matched: MatchedPredictions, scale: LossScale) -> Tensor:
    """L1 distance `(L,)` of the matched boxes."""
    return (matched.boxes - matched.target_boxes).abs().sum((1, 2)) / scale.num_boxes


def box_giou_loss(matched: MatchedPredictions, scale: LossScale) -> Tensor:
    """1 - GIoU `(L,)` of the matched boxes."""
    giou = elementwise_generalized_box_iou(cxcywh_to_xyxy(matched.boxes), cxcywh_to_xyxy(matched.target_boxes))
    return (1 - giou).sum(1) / scale.num_boxes


def mask_focal_loss(matched: MatchedPredictions, scale: LossScale) -> Tensor:
    """Focal loss `(1,)` of the last layer's masks, as a mean over pixels; padding counts as background.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017.
    """
    logits, inside = _masks(matched)
    margin = torch.where(inside, logits, -logits)
    alpha = torch.where(inside, 0.25, 0.75)
    focal = -alpha * torch.sigmoid(-margin).square() * functional.logsigmoid(margin)
    return focal.mean(1).sum()[None] / scale.num_boxes


def mask_dice_loss(matched: MatchedPredictions, scale: LossScale) -> Tensor:
    """Dice loss `(1,)` of the last layer's masks; padding counts as background.

    Source: Milletari et al., V-Net, 2016.
    """
    logits, inside = _masks(matched)
    probability = logits.sigmoid()
    overlap = (probability * inside).sum(1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(1) + inside.sum(1) + 1)
    return dice.sum()[None] / scale.num_boxes


LOSS_TERMS: dict[str, LossTerm] = {
    "loss_ce": LossTerm(classification_loss, coefficient=None),
    "loss_bbox": LossTerm(box_distance_loss, coefficient="bbox_loss_coefficient"),
    "loss_giou": LossTerm(box_giou_loss, coefficient="giou_loss_coefficient"),
    "loss_mask": LossTerm(mask_focal_loss, coefficient="mask_loss_coefficient", needs_masks=True),
    "loss_dice": LossTerm(mask_dice_loss, coefficient="dice_loss_coefficient", needs_masks=True),
}
"""The terms of the loss by name. To add one, write its function and add a row."""


@torch.no_grad()
def cardinality_error(matched: MatchedPredictions) -> Tensor:
    """Absolute difference of the numbers of predicted and of real objects, `(L,)`, as a mean over images."""
    logits, targets = matched.logits, matched.targets
    seen = (logits[..., :-1].amax(-1) >= logits[..., -1]).sum(-1)  # (L, B)
    counts = torch.tensor(targets.counts).to(logits.device, non_blocking=True)
    return (seen - counts).abs().float().mean(1)


@torch.no_grad()
def class_error(matched: MatchedPredictions) -> Tensor:
    """Percentage of the last layer's matched queries with the wrong class; 100 without any."""
    logits, targets, matching = matched.logits, matched.targets, matched.matching
    predicted = logits[-1, matching.image[-1], matching.query[-1]].argmax(-1)
    right = predicted == targets.class_labels[matching.target[-1]]
    return 100 - 100 * right.sum() / max(right.numel(), 1)


def _masks(matched: MatchedPredictions) -> tuple[Tensor, Tensor]:
    if matched.mask_logits is None or matched.target_masks is None:
        raise ValueError("the mask losses need mask_logits")
    return matched.mask_logits, matched.target_masks


def weights_of_classes(matched: MatchedPredictions, no_object: float, class_weights: Sequence[float] | None) -> Tensor:
    """Return the weight of each class and, last, of "no object", `(C + 1,)`; see `set_loss`."""
    logits = matched.logits
    if class_weights is not None and len(class_weights) != logits.shape[-1] - 1:
        raise ValueError(f"class_weights must hold {logits.shape[-1] - 1} numbers, one per class, got {class_weights}")
    weights = logits.new_ones(logits.shape[-1]) if class_weights is None else logits.new_tensor([*class_weights, 1])
    weights[-1] = no_object
    return weights


def sums_of_classes(matched: MatchedPredictions, weights: Tensor) -> Tensor:
    """Return the sum of the weights of each layer's queries, `(L,)`."""
    pairs = weights[matched.targets.class_labels[matched.matching.target]].sum(1)
    return pairs + weights[-1] * (matched.target_classes[0].numel() - matched.matching.target.shape[1])


def _scale(matched: MatchedPredictions, class_weights: Tensor) -> LossScale:
    """Number of objects, at least 1, and sums of class weights, as means over the processes."""
    objects = torch.tensor([sum(matched.targets.counts)], dtype=torch.float32)
    sums = sums_of_classes(matched, class_weights)
    means = torch.cat([objects.to(sums.device, non_blocking=True), sums])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(means)
        means = means / distributed.get_world_size()
    # The sum of weights is zero only when "no object" weighs nothing and there is no object.
    return LossScale(means[0].clamp(min=1), class_weights, means[1:].clamp(min=torch.finfo(means.dtype).tiny))
