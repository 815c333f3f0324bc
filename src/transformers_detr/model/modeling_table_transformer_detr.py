"""The pre-norm family: DETR with a norm in front of each attention and feed-forward, and behind the encoder.

The Table Transformer and UP-DETR are of it. Stock Transformers computes pre-norm in one model type,
`table-transformer`, so folders of these classes have that type, and never `detr`.
"""

from __future__ import annotations

from typing import ClassVar

from .configuration_detr import TableTransformerConfig
from .modeling_detr import DetrForObjectDetection, DetrModel

# isort: split
# Early 5.x, loading custom code from a folder, copies only the files that this one names itself.
from .backbone_detr import DetrConvEncoder  # noqa: F401
from .boxes_detr import box_area  # noqa: F401
from .cpu_kernels_detr import run_linear  # noqa: F401
from .exact_padding_detr import ExactPlan  # noqa: F401
from .frozen_batch_norm_detr import freeze_batch_norms  # noqa: F401
from .fusing_detr import fuse_batch_norms  # noqa: F401
from .initialization_detr import xavier  # noqa: F401
from .loss_detr import set_loss  # noqa: F401
from .matcher_detr import match  # noqa: F401
from .outputs_detr import DetrObjectDetectionOutput  # noqa: F401
from .position_embedding_detr import sine_position_embedding  # noqa: F401
from .pretrained_detr import DetrPreTrainedModel  # noqa: F401
from .recording_detr import is_recorded  # noqa: F401
from .targets_detr import read_targets  # noqa: F401
from .transformer_detr import Attended  # noqa: F401


class TableTransformerModel(DetrModel):
    """Backbone and pre-norm transformer without heads; as `DetrModel`.

    Args:
        config: The configuration.
    """

    config_class = TableTransformerConfig
    config: TableTransformerConfig


class TableTransformerForObjectDetection(DetrForObjectDetection):
    """Pre-norm DETR with its two heads; as `DetrForObjectDetection`.

    Args:
        config: The configuration; `num_labels` classes, one more column for "no object".

    Example:
        ```python
        from PIL import Image
        from transformers_detr import DetrImageProcessor, TableTransformerForObjectDetection

        processor = DetrImageProcessor.from_pretrained("microsoft/table-transformer-detection")
        model = TableTransformerForObjectDetection.from_pretrained("microsoft/table-transformer-detection")
        image = Image.open("page.jpg").convert("RGB")
        outputs = model(**processor(image, return_tensors="pt"))
        tables = processor.post_process_object_detection(outputs, 0.9, [image.size[::-1]])
        ```
    """

    config_class = TableTransformerConfig
    config: TableTransformerConfig
    _base_class: ClassVar[type[DetrModel]] = TableTransformerModel
