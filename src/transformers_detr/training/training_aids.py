"""Training aids for DETR: query groups and token supervision.

Both exist in training only and are added to a model in place. In evaluation mode the model computes what the plain
model computes. Its weights, except those of extra queries, are the plain model's; checkpoints hold only these.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from transformers_detr.model.loss_detr import (
    LossScale,
    loss_terms,
    loss_weights,
    sums_of_classes,
    weighted_sum,
    weights_of_classes,
    with_matching,
)
from transformers_detr.model.matcher_detr import Matching
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_table_transformer_detr import TableTransformerForObjectDetection
from transformers_detr.model.outputs_detr import DetrObjectDetectionOutput, EncodedImages
from transformers_detr.model.targets_detr import Targets, read_targets

TOKEN_CLASS_WEIGHT = 5.0
"""Weight of the classes of tokens beside their boxes: a fresh backbone learns places long before shapes. Not tuned."""


class TrainingAids(DetrForObjectDetection):
    """Detector with training aids, which `add_training_aids` adds to a plain one; base of a class for each model type.

    Query groups: `K` groups of queries are decoded together. Groups do not attend to one another and each is
    matched with the objects separately, so that every object trains `K` queries instead of one. The first
    group is the plain model's. Source: Chen et al., Group DETR, 2023.

    Token supervision: the model's heads predict class and box of an object from encoded tokens near its center, and
    "no object" from the other tokens. No matching is involved, so that backbone and encoder learn from the first
    step where objects are. The idea follows Zong et al., DETRs with Collaborative Hybrid Assignments Training, 2023.
    While `tokens_only` is set, the decoder is left out: its gradients are only noise until tokens carry information.
    """

    extra_queries: nn.Embedding | None
    token_weight: float
    tokens_only: bool

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        exact_padding: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the plain model; when training with labels, return loss, terms and the first group's predictions."""
        if not self.training or labels is None:
            return super().forward(pixel_values, pixel_mask, labels=labels, exact_padding=exact_padding, **kwargs)
        encoded = self.model.encode(pixel_values, pixel_mask, exact_padding=exact_padding)
        if self.tokens_only:
            return self._forward_tokens(encoded, labels)
        groups = 1 if self.extra_queries is None else 1 + self.extra_queries.num_embeddings // self.config.num_queries
        logits, boxes = self.predict(self._decode_groups(encoded, groups))  # (L, B, K·Q, …)
        matched = self.match_labels(_groups_as_layers(logits, groups), _groups_as_layers(boxes, groups), labels)
        loss, terms = self.compute_loss(matched)
        loss = loss / groups
        if self.token_weight > 0:
            token_loss = self._token_loss(encoded, labels)
            terms["loss_tokens"] = token_loss
            loss = loss + self.token_weight * token_loss
        queries = self.config.num_queries
        return DetrObjectDetectionOutput(
            loss=loss, loss_dict=terms, logits=logits[-1, :, :queries], pred_boxes=boxes[-1, :, :queries]
        )

    def _forward_tokens(self, encoded: EncodedImages, labels: list[dict[str, Tensor]]) -> DetrObjectDetectionOutput:
        """Return the token loss alone; queries get zero gradients, because distributed training waits for them."""
        token_loss = self._token_loss(encoded, labels)
        waiting: list[Tensor] = [*self.model.decoder.parameters(), *self.model.query_position_embeddings.parameters()]
        waiting += [] if self.extra_queries is None else [self.extra_queries.weight]
        untouched = 0.0 * torch.stack([value.sum() for value in waiting if value.requires_grad]).sum()
        loss = self.token_weight * token_loss + untouched
        return DetrObjectDetectionOutput(loss=loss, loss_dict={"loss_tokens": token_loss})

    def _decode_groups(self, encoded: EncodedImages, groups: int) -> Tensor:
        """Return decoded queries of all layers and groups `(L, B, K·Q, D)`."""
        memory: Tensor = encoded.memory.last_hidden_state
        positions = self.model.query_position_embeddings.weight
        mask = None
        if self.extra_queries is not None:
            positions = torch.cat([positions, self.extra_queries.weight])
            group = torch.arange(groups, device=memory.device).repeat_interleave(self.config.num_queries)
            mask = (group[:, None] == group)[None, None]  # (1, 1, K·Q, K·Q)
        query_positions = positions[None].expand(memory.shape[0], -1, -1)
        decoded = self.model.decoder(
            torch.zeros_like(query_positions),
            query_positions,
            memory,
            encoded.positions,
            mask,
            None if encoded.mask is None else encoded.mask[:, None, None, :],
            output_intermediate=True,
        )
        states: Tensor = decoded.intermediate
        return states if self.config.auxiliary_loss else states[-1:]

    def _token_loss(self, encoded: EncodedImages, labels: list[dict[str, Tensor]]) -> Tensor:
        memory: Tensor = encoded.memory.last_hidden_state
        projected = encoded.projected
        if projected is None:
            raise ValueError("token supervision needs pixel_values")
        config = self.config
        targets = read_targets(
            labels,
            batch_size=memory.shape[0],
            num_queries=config.num_queries,
            num_classes=config.num_labels,
            device=memory.device,
        )
        shape = (projected.shape[2], projected.shape[3])
        matching = assign_tokens(targets, shape, encoded.mask)
        logits, boxes = (values[None].float() for values in self.predict(memory))  # (1, B, S, …)
        matched = with_matching(logits, logits.log_softmax(-1), boxes, targets, matching)
        classes = weights_of_classes(matched, config.eos_coefficient, config.class_weights)
        scale = LossScale(max(matching.image.numel(), 1), classes, sums_of_classes(matched, classes))
        terms = loss_terms(matched, scale)
        return weighted_sum(terms, {**loss_weights(config), "loss_ce": TOKEN_CLASS_WEIGHT})


class DetrWithTrainingAids(TrainingAids):
    """`DetrForObjectDetection` with training aids."""


class TableTransformerWithTrainingAids(TrainingAids, TableTransformerForObjectDetection):
    """`TableTransformerForObjectDetection` with training aids."""


WITH_AIDS: dict[type, type[TrainingAids]] = {
    DetrForObjectDetection: DetrWithTrainingAids,
    TableTransformerForObjectDetection: TableTransformerWithTrainingAids,
}
"""The class with training aids of each plain class."""


def add_training_aids(model: DetrForObjectDetection, query_groups: int = 1, token_weight: float = 0.0) -> None:
    """Add training aids to a plain model, in place.

    Args:
        model: The model; exactly of a class in `WITH_AIDS`.
        query_groups: Number of groups `K`, including the plain model's.
        token_weight: Weight of token supervision in the loss; 0 leaves it out.
    """
    if type(model) not in WITH_AIDS:
        kinds = " and ".join(kind.__name__ for kind in WITH_AIDS)
        raise TypeError(f"training aids exist for {kinds}, got {type(model).__name__}")
    if query_groups < 1:
        raise ValueError(f"query_groups must be at least 1, got {query_groups}")
    model.__class__ = WITH_AIDS[type(model)]
    aided = cast(TrainingAids, model)
    aided.token_weight = token_weight
    aided.tokens_only = False
    own = model.model.query_position_embeddings
    aided.extra_queries = None
    if query_groups > 1:
        extra = nn.Embedding(own.num_embeddings * (query_groups - 1), own.embedding_dim).to(own.weight.device)
        with torch.no_grad():
            noise = torch.randn_like(extra.weight) * own.weight.std()
            extra.weight.copy_(own.weight.repeat(query_groups - 1, 1) * 0.5 + noise * 0.75**0.5)
        aided.extra_queries = extra


def assign_tokens(targets: Targets, shape: tuple[int, int], mask: Tensor | None) -> Matching:
    """Assign tokens to the objects whose center is near; of several objects to the smallest.

    Near is within a quarter of the object's size, or half a cell, of the center, in both directions: every
    object has at least the token at its center, unless a smaller one takes it.

    Args:
        targets: The objects of the batch.
        shape: Cells `(h, w)` of the feature map.
        mask: Real cells `(B, S)`, or None if none is padding.

    Returns:
        The pairs as of one layer, `(1, M)`; a token has at most one object, an object any number of tokens.
    """
    device = targets.boxes_cxcywh.device
    images = len(targets.counts)
    if mask is None:
        real = torch.tensor([shape], device=device).expand(images, 2)
    else:
        cells = mask.view(images, *shape)
        real = torch.stack([cells.any(2).sum(1), cells.any(1).sum(1)], dim=1)  # (B, 2) as (height, width)
    extent = real[targets.image].flip(1).float()  # (T, 2) as (width, height) in cells
    center, size = targets.boxes_cxcywh[:, :2] * extent, targets.boxes_cxcywh[:, 2:] * extent
    reach = (size / 4).clamp(min=0.5)
    column = (torch.arange(shape[1], device=device) + 0.5 - center[:, :1]).abs() <= reach[:, :1]  # (T, w)
    row = (torch.arange(shape[0], device=device) + 0.5 - center[:, 1:]).abs() <= reach[:, 1:]  # (T, h)
    near = (row[:, :, None] & column[:, None, :]).flatten(1)  # (T, S)
    if mask is not None:
        near &= mask[targets.image]
    # Larger objects write first, smaller ones over them.
    owner = torch.full((images, shape[0] * shape[1]), -1, device=device)
    for index in size.prod(1).argsort(descending=True).tolist():
        owner[targets.image[index], near[index]] = index
    image, token = (owner >= 0).nonzero(as_tuple=True)
    return Matching(image[None], token[None], owner[image, token][None])


def _groups_as_layers(values: Tensor, groups: int) -> Tensor:
    """Predictions `(L, B, K·Q, …)` as those of `K·L` layers `(K·L, B, Q, …)`; the model's own group comes last."""
    layers, images = values.shape[:2]
    split = values.view(layers, images, groups, -1, values.shape[-1]).permute(2, 0, 1, 3, 4)  # (K, L, B, Q, …)
    return split.flip(0).flatten(0, 1)
