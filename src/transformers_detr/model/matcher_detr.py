"""Hungarian matching of the queries of an image with its objects."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .boxes_detr import cxcywh_to_xyxy, elementwise_generalized_box_iou
from .targets_detr import Targets

try:  # only training needs it; users of the model from the Hub may not have it
    from scipy.optimize import linear_sum_assignment
except ImportError:
    linear_sum_assignment = None

logger = logging.getLogger(__name__)

# Cost of a pair whose true cost is non-finite: more than any sum of true costs, and small
# enough that float64 still tells true costs apart beside it.
UNKNOWN_COST = 1e8


@dataclass(frozen=True)
class MatchingCosts:
    """Weight in the matching of each difference between a prediction and an object."""

    class_: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class Matching:
    """The matched pairs of each decoder layer: `M = sum of min(Q, N)` over the images, image after image.

    Attributes:
        image: `(L, M)` int64, index in the batch; the same in each layer.
        query: `(L, M)` int64, index among the image's queries.
        target: `(L, M)` int64, index among the `T` objects of the batch.
    """

    image: Tensor
    query: Tensor
    target: Tensor


@torch.compiler.disable
@torch.no_grad()
def match(log_probabilities: Tensor, pred_boxes: Tensor, targets: Targets, costs: MatchingCosts) -> Matching:
    """Pair queries with objects, one to one, at the least total cost for each image and layer.

    All costs are computed together and reach the host in one transfer. Predictions that are not finite are
    matched only where nothing else is left, and reported by a warning.

    Args:
        log_probabilities: `(L, B, Q, C + 1)`, the log-softmax of the logits; the last column is "no object".
        pred_boxes: `(L, B, Q, 4)`, cxcywh.
        targets: the objects of the `B` images.
        costs: weights of the terms.

    Returns:
        The pairs, on the device of the predictions. Where there are more objects than queries, some stay alone.
    """
    cost = pair_costs(log_probabilities, pred_boxes, targets, costs).cpu().numpy()  # (T, L, Q)
    cost = _replace_unknown(cost, targets)
    pairs: list[np.ndarray] = []
    start = 0
    for image, count in enumerate(targets.counts):
        pairs.append(_assign(cost[start : start + count], image, start))
        start += count
    indices = torch.from_numpy(np.concatenate(pairs, axis=-1)).to(pred_boxes.device, non_blocking=True)
    return Matching(*indices.unbind())


def pair_costs(log_probabilities: Tensor, pred_boxes: Tensor, targets: Targets, costs: MatchingCosts) -> Tensor:
    """The cost of each object with each query of its own image.

    The class cost is the negative probability of the object's class, not its logarithm, so that it is of the
    size of the other terms. Source: Carion et al., End-to-End Object Detection with Transformers, 2020, 3.1.

    Args:
        log_probabilities: `(L, B, Q, C + 1)`, the log-softmax of the logits.
        pred_boxes: `(L, B, Q, 4)`, cxcywh.
        targets: the `T` objects.
        costs: weights of the terms.

    Returns:
        `(T, L, Q)` float32.
    """
    pred_boxes = pred_boxes.float()
    wanted = targets.boxes_cxcywh[:, None, None]  # (T, 1, 1, 4)
    probability = log_probabilities.float()[:, targets.image, :, targets.class_labels].exp()  # (T, L, Q)
    distance = (_candidates(pred_boxes, targets) - wanted).abs().sum(-1)
    giou = elementwise_generalized_box_iou(_candidates(cxcywh_to_xyxy(pred_boxes), targets), cxcywh_to_xyxy(wanted))
    return costs.bbox * distance - costs.class_ * probability - costs.giou * giou


def _candidates(boxes: Tensor, targets: Targets) -> Tensor:
    """The boxes `(L, B, Q, 4)` of the queries of each object's image, `(T, L, Q, 4)`.

    In memory the coordinates stand apart, each in one run, which halves the time of what follows.
    """
    return boxes.permute(3, 1, 0, 2).index_select(1, targets.image).permute(1, 2, 3, 0)


def _replace_unknown(cost: np.ndarray, targets: Targets) -> np.ndarray:
    known = np.isfinite(cost)
    if known.all():
        return cost
    images = np.unique(targets.image.cpu().numpy()[~known.all(axis=(1, 2))])
    logger.warning(
        "The predictions for image %s of the batch are not finite. They were matched last, and the loss "
        "of this step is not finite either: skip the step.",
        ", ".join(map(str, images)),
    )
    return np.where(known, cost, UNKNOWN_COST)


def _assign(cost: np.ndarray, image: int, start: int) -> np.ndarray:
    """Image, query and target `(3, L, min(Q, N))` of the pairs of one image with cost `(N, L, Q)`."""
    if linear_sum_assignment is None:
        raise ImportError("the matching, and so the loss, needs scipy: pip install scipy")
    layers = [linear_sum_assignment(cost[:, layer]) for layer in range(cost.shape[1])]
    return np.stack([np.stack([np.full_like(query, image), query, own + start]) for own, query in layers], axis=1)
