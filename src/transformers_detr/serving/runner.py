"""Model runner: prepares images one by one, runs them in batches, and builds responses in the Hub's formats."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

import numpy as np
from torch import nn

from transformers_detr.explanation.attention import image_attention
from transformers_detr.inference.detector import THRESHOLDS, Detector, Segmenter
from transformers_detr.inference.predictor import Predictor, Prepared
from transformers_detr.model.image_io_detr import Pixels
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.responses import (
    attention_response,
    detection_response,
    filter_by_score,
    segmentation_response,
)
from transformers_detr.serving.schemas import RequestParameters

_WARM_UP_SIZE = (48, 64)

Endpoint = Literal["predict", "attention"]


@dataclass(frozen=True)
class PreparedRequest:
    """Preprocessed image with the parameters of its request.

    Attributes:
        endpoint: "predict" for detections or segments, "attention" for attention maps.
        threshold: Minimum score.
        subtask: Segmentation task, None for detection.
        details: Add class ids and colors to the response.
        prepared: Preprocessed image.
    """

    endpoint: Endpoint
    threshold: float
    subtask: str | None
    details: bool
    prepared: Prepared


class ModelRunner:
    """Detector or segmenter behind the service.

    Args:
        predictor: Only one thread at a time may call `run`; all else is thread-safe.
    """

    def __init__(self, predictor: Detector | Segmenter):
        self._predictor: Predictor[Any] = predictor
        self._model: Any = predictor.model
        self.num_channels = predictor.num_channels
        self._segments = isinstance(predictor, Segmenter)
        self.task = "image-segmentation" if self._segments else "object-detection"
        self.default_threshold = float(predictor.default_threshold)
        self.has_attention = isinstance(predictor.model, nn.Module)

    def prepare(self, endpoint: Endpoint, parameters: RequestParameters, image: Pixels) -> PreparedRequest:
        """Preprocess the image of a request, which has the `num_channels` of the model.

        Raises:
            ServiceError: The model does not support the request, or the processor cannot resize the image.
        """
        subtask = self._subtask(parameters.subtask)
        if endpoint == "attention" and not self.has_attention:
            raise ServiceError(HTTPStatus.CONFLICT, "attention maps need PyTorch weights, not an exported model")
        threshold = parameters.threshold
        if threshold is None:
            threshold = self.default_threshold if subtask is None else THRESHOLDS[subtask]
        try:
            prepared = self._predictor.prepare(image)
        except ValueError as error:
            raise ServiceError(HTTPStatus.BAD_REQUEST, f"the image cannot be resized: {error}") from None
        return PreparedRequest(endpoint, threshold, subtask, parameters.details, prepared)

    def warm_up(self) -> None:
        """Run a gray image, since the first run of a model is slow."""
        gray = np.full((*_WARM_UP_SIZE, self.num_channels), 128, np.uint8)
        request = self.prepare("predict", RequestParameters(), gray)
        self.select_batch([request], batch_size=1)
        self.to_response(request, self.run([request])[0])

    def select_batch(self, requests: Sequence[PreparedRequest], batch_size: int) -> list[int]:
        """Return the indices of the requests to run together with the first one."""
        compatible = {
            index: request.prepared.shape
            for index, request in enumerate(requests)
            if _batch_key(request) == _batch_key(requests[0])
        }
        return self._predictor.batches(compatible, batch_size)[0]

    def run(self, requests: Sequence[PreparedRequest]) -> list[Any]:
        """Run a batch through the model; `to_response` reads the outputs."""
        batch, first = [request.prepared for request in requests], requests[0]
        if first.endpoint == "attention":
            return [image_attention(self._model, item.pixel_values[None]) for item in batch]
        predictor = self._predictor
        if isinstance(predictor, Segmenter):
            predictor = Segmenter(self._model, predictor.image_processor, first.subtask)  # type: ignore[arg-type]
        return predictor.predict(batch, min(request.threshold for request in requests))

    def to_response(self, request: PreparedRequest, output: Any) -> Any:
        """Return the response to a request, ready for JSON."""
        if request.endpoint == "attention":
            id2label = self._model.config.id2label
            return attention_response(output, request.prepared.image_size, id2label, request.threshold)
        if self._segments:
            return segmentation_response(output, request.details)
        return detection_response(filter_by_score(output, request.threshold), request.details)

    def _subtask(self, subtask: str | None) -> str | None:
        if self._segments:
            return subtask or "panoptic"
        if subtask is not None:
            raise ServiceError(HTTPStatus.BAD_REQUEST, "subtask is for segmentation models; this is a detection model")
        return None


def _batch_key(request: PreparedRequest) -> Hashable:
    """Return what requests of a batch share. Segments compete for pixels, so they need the same threshold too."""
    threshold = None if request.subtask is None else request.threshold
    return request.endpoint, request.subtask, threshold
