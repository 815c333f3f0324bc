"""Custom handler of a Hub Inference Endpoint with the same responses as `detr serve`."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageOps

from transformers_detr.model.image_io_detr import Pixels, load_pixels
from transformers_detr.serving.image_decoding import decode_image
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.model_registry import load_model
from transformers_detr.serving.request_body import decode_base64
from transformers_detr.serving.schemas import RequestParameters


class EndpointHandler:
    """Loads the model of this file's repository and handles requests one by one.

    Args:
        path: Folder of the repository.
    """

    def __init__(self, path: str = "."):
        self._runner = load_model(path or ".")

    def __call__(self, data: dict[str, Any]) -> Any:
        """Handle one request.

        Args:
            data: `inputs`, an image or its bytes, raw or base64-encoded; optionally `parameters`.

        Returns:
            Object-detection or image-segmentation format of the Hub.
        """
        parameters = RequestParameters.model_validate(data.get("parameters") or {})
        request = self._runner.prepare("predict", parameters, _image(data["inputs"], self._runner.num_channels))
        return self._runner.to_response(request, self._runner.run([request])[0])


def _image(inputs: Any, num_channels: int) -> Pixels:
    if isinstance(inputs, Image.Image):
        return load_pixels(ImageOps.exif_transpose(inputs), num_channels)
    content = decode_base64(inputs) if isinstance(inputs, str) else inputs
    return decode_image(content, Limits().pixels, num_channels)
