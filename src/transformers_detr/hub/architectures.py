"""Model types and architectures: which classes of this package a `config.json` means."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from transformers_detr.model.configuration_detr import DetrConfig, TableTransformerConfig
from transformers_detr.model.modeling_detr import DetrForObjectDetection, DetrModel
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.modeling_table_transformer_detr import (
    TableTransformerForObjectDetection,
    TableTransformerModel,
)
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel


class Family(NamedTuple):
    """The classes of a model type.

    Attributes:
        config: The configuration.
        base: The model without heads.
        detector: The detector.
        segmenter: The model with masks; None if this type has none.
    """

    config: type[DetrConfig]
    base: type[DetrModel]
    detector: type[DetrForObjectDetection]
    segmenter: type[DetrForSegmentation] | None


FAMILIES: dict[str, Family] = {
    family.config.model_type: family
    for family in (
        Family(DetrConfig, DetrModel, DetrForObjectDetection, DetrForSegmentation),
        Family(TableTransformerConfig, TableTransformerModel, TableTransformerForObjectDetection, None),
    )
}
"""The classes by `model_type`."""

ARCHITECTURES: dict[str, type[DetrPreTrainedModel]] = {
    kind.__name__: kind for family in FAMILIES.values() for kind in (family.detector, family.segmenter) if kind
}
"""The models with heads by the name in `architectures`."""


def read_config(name_or_folder: str | Path, **hub: Any) -> DetrConfig:
    """Read a configuration of any model type of this package.

    Args:
        name_or_folder: Hub id or folder.
        **hub: See `transformers_detr.hub.loading.load_pretrained`.

    Raises:
        OSError: There is no `config.json`.
        ValueError: It is of another model type, or a value is wrong.
    """
    values, _ = DetrConfig.get_config_dict(name_or_folder, **hub)
    family = FAMILIES.get(values.get("model_type", DetrConfig.model_type))
    config: DetrConfig = (family.config if family else DetrConfig).from_dict(values)
    return config
