"""Model setup for a training: a pretrained model or a recipe's fresh model, adapted to a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.models import load_state_dict

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.hub.architectures import FAMILIES
from transformers_detr.hub.loading import holds_segmentation, load_pretrained
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.training.model_surgery import resize_queries, set_classes, with_channels
from transformers_detr.training.recipes import Recipe, find_recipe, read_recipe

LITTLE_DATA = 5000
"""Minimum of training images below which a model without pretrained weights learns hardly anything."""

IMAGES_SEEN = 30_000
"""Images that fine-tuning sees by default, repetitions included, within the limits of `EPOCHS`."""

EPOCHS = (12, 120)

SHOWN = 8
"""Maximum of class names in a note."""


@dataclass
class ModelSetup:
    """A model adapted to a dataset.

    Attributes:
        model: The model, with the dataset's classes.
        processor: Its image processor.
        source: Origin of the model: a name, or fields of `DetrConfig`.
        training: Fields of `DetrTrainingArguments` chosen for model and dataset.
        notes: Changes to the model, in sentences for the user.
        warnings: Likely problems, in sentences for the user.
    """

    model: DetrForObjectDetection | DetrForSegmentation
    processor: DetrImageProcessor
    source: str | dict[str, Any]
    training: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def with_masks(self) -> bool:
        """True if the model has a mask head."""
        return isinstance(self.model, DetrForSegmentation)


def set_up_model(
    name: str,
    dataset: DetectionDataset,
    size: int | None = None,
    queries: int | None = None,
    backbone_weights: Path | None = None,
    masks: bool = False,
    channels: int | None = None,
) -> ModelSetup:
    """Load a pretrained model, or build a recipe's model, and adapt it to a dataset.

    Args:
        name: Name on the Hub, folder, name of a recipe, or a recipe's file.
        dataset: The dataset, with a split "train".
        size: Shorter side of images, or the longer one where it alone sets the size; default: the model's or recipe's.
        queries: Number of queries; default: the model's, or more if an image has more objects.
        backbone_weights: File with timm's weights for the backbone of a recipe's model.
        masks: Add a mask head to a trained detector; a segmentation model has one.
        channels: Channels of the images; default: the model's, or those of the recipe's `image_mean`.

    Returns:
        The adapted model.

    Raises:
        LoadingError: The model cannot be loaded.
        ValueError: The recipe is invalid, backbone weights are given for a pretrained model, or masks are requested for
            a dataset without masks or a fresh model.
        FileNotFoundError: The file of backbone weights does not exist.
    """
    path = find_recipe(name)
    recipe = Recipe(model=name) if path is None else read_recipe(path)
    masks = masks or bool(recipe.training.get("masks"))
    if channels is None and "image_mean" in recipe.processor:
        channels = len(DetrImageProcessor(**recipe.processor).image_mean)
    if isinstance(recipe.model, dict):
        if masks:
            raise ValueError(
                "masks need a trained detector: train the detector first, then use its folder as the model"
            )
        fields = recipe.model if channels is None else recipe.model | {"num_channels": channels}
        start = _fresh(fields, dataset, backbone_weights)
    elif backbone_weights is None:
        start = _pretrained(recipe.model, dataset, masks, channels)
    else:
        raise ValueError(f"backbone weights need a recipe of a fresh model, but {recipe.model} is pretrained")
    processor = DetrImageProcessor(**start.processor.to_dict() | recipe.processor)
    start.processor = _for_channels(processor, start.model.config.num_channels)
    start.training |= edges_for(start.processor.size) | recipe.training
    if size is not None:
        start.processor.size = _scaled(start.processor.size, size)
        start.training |= edges_for(start.processor.size)
    most = max((sum(not item.iscrowd for item in image.objects) for image in dataset.split("train")), default=0)
    own = start.model.config.num_queries
    wanted = queries or max(own, most)
    if wanted != own:
        resize_queries(start.model, wanted)
        reason = "as requested" if queries else f"an image holds {most} objects"
        start.notes.append(f"Queries: {own} → {wanted} ({reason}).")
    return start


def fine_tuning_defaults(images: int) -> dict[str, Any]:
    """Return default fields of `DetrTrainingArguments` for fine-tuning on this number of training images."""
    epochs = min(max(round(IMAGES_SEEN / images), EPOCHS[0]), EPOCHS[1])
    small = images < LITTLE_DATA
    return {
        "num_train_epochs": epochs,
        "learning_rate": 5e-5 if images < 500 else 1e-4,
        "warmup_steps": 0.03,
        "augmentation": "small-data" if small else "paper",
        "ema_decay": 0.999 if epochs * images >= 10_000 else 0.0,
    }


def edges_for(size: Mapping[str, int]) -> dict[str, Any]:
    """Return training sizes for an image processor's size, in the paper's ratio of 480 … 800 to 800."""
    shortest = size.get("shortest_edge") or min(size.values())
    longest = size.get("longest_edge") or max(size.values())
    edges = sorted({round(shortest * share / 16) for share in range(10, 17)})
    return {"edges": edges, "longest_edge": max(longest, shortest)}


def _pretrained(name: str, dataset: DetectionDataset, masks: bool, channels: int | None) -> ModelSetup:
    has_masks = holds_segmentation(name)
    kind: type[DetrForObjectDetection | DetrForSegmentation]
    kind = DetrForSegmentation if has_masks else DetrForObjectDetection
    model, processor = load_pretrained(kind, name)
    own_channels = model.config.num_channels
    if channels not in (None, own_channels):
        model = with_channels(model, channels)
    before = model.config.num_labels
    kept = set_classes(getattr(model, "detr", model), dataset.class_names)
    model.config.auxiliary_loss = True
    notes = [_about_classes(before, dataset.class_names, kept)]
    if channels not in (None, own_channels):
        notes.append(f"Channels: {own_channels} → {channels}; the first convolution starts from the model's weights.")
    training = fine_tuning_defaults(len(dataset.split("train")))
    if masks or has_masks:
        require_masks(dataset)
        training["masks"] = True
    if masks and isinstance(model, DetrForObjectDetection):
        same_classes = before == len(kept) == len(dataset.class_names)
        model = add_mask_head(model, train_detector=not same_classes)
        rest = "is frozen" if same_classes else "is trained too, because its classes are new"
        notes.append(f"Masks: the mask head is new; the detector {rest}.")
    return ModelSetup(model, processor, name, training, notes)


def add_mask_head(detector: DetrForObjectDetection, train_detector: bool) -> DetrForSegmentation:
    """Return a segmentation model with a new mask head on a detector, which is trained too or frozen."""
    trainable = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    model = DetrForSegmentation.from_detector(detector)
    for parameter in trainable:
        parameter.requires_grad_(train_detector)
    return model


def require_masks(dataset: DetectionDataset) -> None:
    """Raise ValueError if an object (no crowd) has no mask."""
    for image in (image for images in dataset.splits.values() for image in images):
        for item in image.objects:
            if item.segmentation is None and not item.iscrowd:
                place = item.place or f"annotation {item.id}"
                raise ValueError(
                    f"{image.source}, image {image.id}, {place}: has no mask; training masks needs one for each object"
                )


def _about_classes(before: int, names: tuple[str, ...], kept: list[str]) -> str:
    if before == len(names) and kept == list(names):
        return f"Classes: the model's own {before}."
    known = f"{_shortened(kept)} and “no object”" if kept else "“no object”"
    return (
        f"Classes: {before} → {len(names)} ({_shortened(names)}); the classification layer is new, except for {known}."
    )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])])


def _fresh(fields: dict[str, Any], dataset: DetectionDataset, backbone_weights: Path | None) -> ModelSetup:
    label2id = {name: label for label, name in dataset.id2label.items()}
    fields = dict(fields)
    model_type = fields.pop("model_type", DetrConfig.model_type)
    if model_type not in FAMILIES:
        raise ValueError(f"model_type of a recipe must be one of {', '.join(FAMILIES)}, got {model_type!r}")
    family = FAMILIES[model_type]
    config = family.config(**fields, id2label=dataset.id2label, label2id=label2id)
    model = (
        family.detector(config)
        if backbone_weights is None
        else _with_backbone_weights(family.detector, config, backbone_weights)
    )
    images = len(dataset.split("train"))
    warnings = []
    if images < LITTLE_DATA:
        which = (
            "Outside its backbone this model" if backbone_weights or config.use_pretrained_backbone else "This model"
        )
        warnings.append(
            f"{which} starts without pretrained weights, and {images} images are few for that: expect "
            "many epochs and a modest result. Fine-tuning facebook/detr-resnet-50 needs far fewer images."
        )
    return ModelSetup(model, DetrImageProcessor(), fields, {}, [], warnings)


def _for_channels(processor: DetrImageProcessor, channels: int) -> DetrImageProcessor:
    """Fit mean and deviation to the channels as `with_channels` fits weights: averaged for one, else repeated."""
    if processor.num_channels == channels:
        return processor
    fitted = {
        name: [sum(values) / len(values)] if channels == 1 else [values[i % len(values)] for i in range(channels)]
        for name, values in (("image_mean", processor.image_mean), ("image_std", processor.image_std))
    }
    return DetrImageProcessor(**processor.to_dict() | fitted)


def _with_backbone_weights(
    kind: type[DetrForObjectDetection], config: DetrConfig, path: Path
) -> DetrForObjectDetection:
    """Build a model whose backbone weights timm reads from a file; the configuration does not keep the path."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of backbone weights")
    kwargs = config.backbone_kwargs or {}
    config.use_pretrained_backbone = True
    config.backbone_kwargs = {**kwargs, "pretrained_cfg_overlay": {"file": str(path)}}
    model = kind(config)
    missing = model.model.backbone.conv_encoder.model.state_dict().keys() - load_state_dict(str(path)).keys()
    if missing:  # timm only logs it
        raise ValueError(
            f"{path}: no weights for {config.backbone}: {len(missing)} are missing, such as {min(missing)}"
        )
    model.config.use_pretrained_backbone = False
    model.config.backbone_kwargs = kwargs or None
    return model


def _scaled(size: Mapping[str, int], shortest: int) -> dict[str, int]:
    """Return a size with another shorter side and a proportional maximum of the longer side.

    Where the longer side alone is given, it is the one that changes.
    """
    if set(size) == {"longest_edge"}:
        return {"longest_edge": shortest}
    before = size.get("shortest_edge") or min(size.values())
    longest = size.get("longest_edge") or max(size.values())
    return {"shortest_edge": shortest, "longest_edge": max(round(longest * shortest / before), shortest)}
