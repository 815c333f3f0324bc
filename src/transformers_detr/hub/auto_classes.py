"""Registration of this package's classes with the `Auto*` classes of Transformers."""

from __future__ import annotations


def use_for_auto() -> None:
    """Make `AutoModelForObjectDetection`, `pipeline` and the other `Auto*` classes use this package for DETR.

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

    from transformers_detr.model.configuration_detr import DetrConfig
    from transformers_detr.model.image_processing_detr import DetrImageProcessor
    from transformers_detr.model.modeling_detr import DetrForObjectDetection, DetrModel
    from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation

    AutoConfig.register("detr", DetrConfig, exist_ok=True)
    AutoModel.register(DetrConfig, DetrModel, exist_ok=True)
    AutoModelForObjectDetection.register(DetrConfig, DetrForObjectDetection, exist_ok=True)
    for segmentation in (AutoModelForImageSegmentation, AutoModelForUniversalSegmentation):
        segmentation.register(DetrConfig, DetrForSegmentation, exist_ok=True)
    backends: dict[str, type] = {"pil": DetrImageProcessor, "torchvision": DetrImageProcessor}
    AutoImageProcessor.register(DetrConfig, image_processor_classes=backends, exist_ok=True)
