"""The custom handler of a Hub Inference Endpoint: a request's picture to the same answer that `detr serve` gives."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageOps

from transformers_detr.serving.image_decoding import open_picture
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.model_loading import load_model
from transformers_detr.serving.request_parameters import Parameters, decode_base64


class EndpointHandler:
    """Loads the model of the repository that holds this file, and answers requests one by one.

    Args:
        path: Folder of the repository.
    """

    def __init__(self, path: str = "."):
        self._model = load_model(path or ".")

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answer one request.

        Args:
            data: `inputs`, a picture or its bytes, perhaps as base64; and perhaps `parameters`.

        Returns:
            The Hub's object-detection or image-segmentation form.
        """
        parameters = Parameters.model_validate(data.get("parameters") or {})
        work = self._model.prepare("find", parameters, _picture(data["inputs"]))
        return self._model.answer(work, self._model.run([work])[0])


def _picture(inputs: Any) -> Image.Image:
    if isinstance(inputs, Image.Image):
        return ImageOps.exif_transpose(inputs).convert("RGB")
    return open_picture(decode_base64(inputs) if isinstance(inputs, str) else inputs, Limits().pixels)
