"""Our detector and the one of stock Transformers, on the same random weights, with images for both."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from report import Disagreement

import transformers_detr
from transformers_detr.backends.registry import Backend
from transformers_detr.export.export_folder import write_export_folder

LOGITS, BOXES = 1e-3, 1e-4  # what counts as the same answer
MIXED_SIZES = [(640, 480), (480, 640), (640, 427), (500, 375), (612, 612), (640, 360), (426, 640), (640, 480)]
"""Width and height, as photos have them."""


class Models:
    """Both models, both processors, a folder with the weights, and images.

    Args:
        backbone: Name of the backbone.
    """

    def __init__(self, backbone: str):
        transformers.utils.logging.disable_progress_bar()
        torch.manual_seed(0)
        config = transformers_detr.DetrConfig(backbone=backbone, num_labels=91)
        self.ours = transformers_detr.DetrForObjectDetection(config).eval()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = self.temporary.name
        self.ours.save_pretrained(self.folder)
        self.stock = transformers.DetrForObjectDetection.from_pretrained(self.folder).eval()
        self.our_processor = transformers_detr.DetrImageProcessor()
        self.stock_processor = transformers.DetrImageProcessor()
        self.our_processor.save_pretrained(self.folder)
        self.rng = np.random.default_rng(0)

    @cached_property
    def exported(self) -> Path:
        """A folder with our model for ONNX Runtime and, if it is installed, OpenVINO."""
        folder = Path(self.folder, "exported")
        folder.mkdir()
        formats: tuple[Backend, ...] = ("onnx", "openvino") if find_spec("openvino") else ("onnx",)
        write_export_folder(folder, self.ours, self.our_processor, formats)
        return folder

    def train_alike(self) -> None:
        """Have stock train the layers that the original trains; by default it trains stem and first stage too."""
        for name, parameter in self.stock.named_parameters():
            if "backbone" in name and not any(stage in name for stage in ("layer2", "layer3", "layer4")):
                parameter.requires_grad_(False)

    def image(self, width: int, height: int) -> Image.Image:
        """A smooth random image (noise would be unlike any photo for the resizer)."""
        small = self.rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)

    def detect(self, model: Any, processor: Any, images: list[Image.Image]) -> Any:
        """Detect objects in images; all queries are kept."""
        with torch.inference_mode():
            outputs = model(**processor(images=images, return_tensors="pt"))
        sizes = [image.size[::-1] for image in images]
        return processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)

    def same_answers(self, inputs: Mapping[str, torch.Tensor], ours: Any = None) -> None:
        """Compare our model, or another one given as `ours`, with stock's.

        Raises:
            Disagreement: Logits or boxes differ.
        """
        with torch.inference_mode():
            found, stock = (ours or self.ours)(**inputs), self.stock(**inputs)
        logits = float((found.logits - stock.logits).abs().max())
        boxes = float((found.pred_boxes - stock.pred_boxes).abs().max())
        if not (logits <= LOGITS and boxes <= BOXES):
            raise Disagreement(f"logits differ by {logits:.1e}, boxes by {boxes:.1e}")
