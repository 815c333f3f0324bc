"""Model surgery before fine-tuning: replace classes, resize queries, change channels, freeze parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import nn

from transformers_detr.training.trainable_batch_norm import make_batch_norms_trainable

PARTS: dict[str, str] = {
    "backbone": "model.backbone.",
    "projection": "model.input_projection.",
    "encoder": "model.encoder.",
    "decoder": "model.decoder.",
    "queries": "model.query_position_embeddings.",
    "classes": "class_labels_classifier.",
    "boxes": "bbox_predictor.",
}
"""Parts of a model by name, as prefixes of parameter names."""


def with_channels(model: Any, num_channels: int) -> Any:
    """Return a copy of a model for images of another number of channels.

    The first convolution takes its weights from the model's by timm's rule: summed for one channel, else repeated and
    scaled to keep the sum.

    Args:
        model: A `DetrForObjectDetection` or `DetrForSegmentation`.
        num_channels: Channels of the images.

    Raises:
        ValueError: The weights of the first convolution are not those of `config.num_channels` channels.
    """
    settings = model.config.to_dict() | {"num_channels": num_channels, "use_pretrained_backbone": False}
    if model.config.backbone_config is not None:
        settings["backbone_config"]["num_channels"] = num_channels
    weights = model.state_dict()
    name = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    try:
        weights[name] = adapt_input_conv(num_channels, weights[name], model.config.num_channels)
    except NotImplementedError as error:
        raise ValueError(f"{name} of shape {tuple(weights[name].shape)} cannot take {num_channels} channels") from error
    changed = type(model)(type(model.config).from_dict(settings))
    changed.load_state_dict(weights)
    return changed


@torch.no_grad()
def set_classes(model: Any, class_names: Sequence[str]) -> list[str]:
    """Give a detector a new list of classes, in place.

    Classes with the name of an old class (case-insensitive) keep its weights, and "no object" does too; the other
    classes are newly initialized.

    Args:
        model: A `DetrForObjectDetection`.
        class_names: The new names, by class id.

    Returns:
        The names whose weights were kept.
    """
    config = model.config
    old_ids = {name.casefold(): label for label, name in config.id2label.items()}
    if [config.id2label[label] for label in sorted(config.id2label)] == list(class_names):
        return list(class_names)
    old = model.class_labels_classifier
    new = nn.Linear(old.in_features, len(class_names) + 1).to(old.weight.device, old.weight.dtype)
    kept = []
    for label, name in [*enumerate(class_names), (len(class_names), None)]:
        source = old.out_features - 1 if name is None else old_ids.get(name.casefold())
        if source is None:
            continue
        new.weight[label] = old.weight[source]
        new.bias[label] = old.bias[source]
        if name is not None:
            kept.append(name)
    model.class_labels_classifier = new
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: label for label, name in enumerate(class_names)}
    config.class_weights = None
    if config.label_ids_to_fuse:
        fused = set(config.label_ids_to_fuse)
        config.label_ids_to_fuse = [
            label for label, name in enumerate(class_names) if old_ids.get(name.casefold()) in fused
        ]
    return kept


@torch.no_grad()
def resize_queries(model: Any, count: int) -> None:
    """Change the number of object queries, in place.

    With fewer, the first queries stay. With more, all stay, and copies of them with noise are added.

    Args:
        model: A DETR model with or without heads.
        count: Wanted number of queries.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    detector = getattr(model, "detr", model)
    core = getattr(detector, "model", detector)
    old = core.query_position_embeddings.weight
    new = nn.Embedding(count, old.shape[1]).to(old.device, old.dtype)
    source = torch.arange(count, device=old.device) % len(old)
    moved = (torch.arange(count, device=old.device) >= len(old))[:, None]
    new.weight.copy_(old[source] + moved * torch.randn_like(new.weight) * old.std() / 10)
    core.query_position_embeddings = new
    model.config.num_queries = count


def freeze(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze parts of a model, in place.

    Args:
        model: A detector.
        parts: Names from `PARTS`, or prefixes of parameter names such as `model.encoder.layers.0`.

    Raises:
        ValueError: A part has no parameter.
    """
    for part in parts:
        prefix = PARTS.get(part, part)
        named = [(name.removeprefix("detr."), value) for name, value in model.named_parameters()]
        parameters = [value for name, value in named if name.startswith(prefix)]
        if not parameters:
            raise ValueError(f"freeze: {part!r} is no part of the model; parts are {', '.join(PARTS)}")
        for parameter in parameters:
            parameter.requires_grad_(False)


def train_whole_backbone(model: Any, batch_norm: bool = False) -> None:
    """Unfreeze the backbone's stem and first stage, and its batch norms if `batch_norm` is set."""
    backbone = getattr(model, "detr", model).model.backbone.conv_encoder
    backbone.requires_grad_(True)
    if batch_norm:
        make_batch_norms_trainable(backbone)
