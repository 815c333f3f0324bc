"""Registration of this package's classes with the `Auto*` classes of Transformers."""

from __future__ import annotations


def use_for_auto() -> None:
    """Make `AutoModelForObjectDetection`, `pipeline` and the other `Auto*` classes use this package.

    That is for the model types `detr` and `table-transformer`.

    This replaces the classes inside Transformers for this process, and may be called again. Importing the package
    alone registers nothing.
    """
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageSegmentation,
        AutoModelForObjectDetection,
        AutoModelForUniversalSegmentation,
    )

    from transformers_detr.hub.architectures import FAMILIES
    from transformers_detr.model.image_processing_detr import DetrImageProcessor

    backends: dict[str, type] = {"pil": DetrImageProcessor, "torchvision": DetrImageProcessor}
    for model_type, family in FAMILIES.items():
        AutoConfig.register(model_type, family.config, exist_ok=True)
        AutoModel.register(family.config, family.base, exist_ok=True)
        AutoModelForObjectDetection.register(family.config, family.detector, exist_ok=True)
        if family.segmenter:
            for segmentation in (AutoModelForImageSegmentation, AutoModelForUniversalSegmentation):
                segmentation.register(family.config, family.segmenter, exist_ok=True)
        AutoImageProcessor.register(family.config, image_processor_classes=backends, exist_ok=True)
