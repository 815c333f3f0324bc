"""Make the `Auto*` classes of transformers return the classes of this package, on request."""

from __future__ import annotations


def use_for_auto() -> None:
    """From now on, `AutoModelForObjectDetection`, `pipeline` and the like use this package for DETR.

    Holds for this process, replaces the classes inside transformers, and may be called again. Nothing is
    registered by importing the package.
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
    backends = {"pil": DetrImageProcessor, "torchvision": DetrImageProcessor}
    AutoImageProcessor.register(DetrConfig, image_processor_classes=backends, exist_ok=True)
