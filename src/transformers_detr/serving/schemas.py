"""Schemas of requests and responses, and the OpenAPI description of each route."""

from __future__ import annotations

from typing import Any, Literal

from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

DESCRIPTION = "Object detection and segmentation in the formats of the Hub's inference API."
API_VERSION = "1.0"


class RequestParameters(BaseModel):
    """Parameters of an inference request."""

    model_config = ConfigDict(extra="forbid")

    threshold: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Minimum score; by default the model's own."
    )
    subtask: Literal["panoptic", "instance", "semantic"] | None = Field(
        default=None, description="Segmentation task, for segmentation models."
    )
    details: bool = Field(default=False, description="Add `class_id` and `color` to each entry of the response.")


class InferenceRequest(BaseModel):
    """Image and parameters in one JSON document, as the Hub's clients send it."""

    model_config = ConfigDict(extra="forbid")

    inputs: str = Field(description="Base64-encoded image, or its URL if the service fetches URLs.")
    parameters: RequestParameters | None = None


class Box(BaseModel):
    """Box corners in pixels of the upright image; they may lie outside it."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class DetectedObject(BaseModel):
    """Object in the Hub's object-detection format."""

    model_config = ConfigDict(extra="forbid")

    score: float
    label: str
    box: Box
    class_id: int | None = Field(default=None, description="With `details`.")
    color: str | None = Field(default=None, description="With `details`: color of the class in annotated images.")


class Segment(BaseModel):
    """Segment in the Hub's image-segmentation format."""

    model_config = ConfigDict(extra="forbid")

    score: float | None = Field(description="None in semantic segmentation.")
    label: str
    mask: str = Field(description="Base64-encoded PNG of the size of the image, 255 inside the segment.")
    class_id: int | None = Field(default=None, description="With `details`.")
    color: str | None = Field(default=None, description="With `details`: color of the class in annotated images.")


class ObjectAttention(DetectedObject):
    """Object with the attention of its query."""

    attention: str = Field(description="One byte per cell, row by row, 255 for the maximum, base64-encoded.")


class AttentionMaps(BaseModel):
    """Cross-attention of the decoder's last layer."""

    width: int
    height: int
    queries: list[ObjectAttention]


class ModelStatus(BaseModel):
    """State of a model."""

    name: str
    state: str = Field(description="unloaded, loading, ready or failed")
    reason: str | None = Field(default=None, description="Error message of a failed model.")


class Readiness(BaseModel):
    """Readiness of the service."""

    status: str = Field(description="ready, not ready or stopping")
    models: list[ModelStatus]


class Health(BaseModel):
    """Liveness of the process."""

    status: str


class ModelInfo(BaseModel):
    """Properties of a model; only name and state if it is not loaded."""

    name: str
    state: str
    task: str | None = None
    default_threshold: float | None = None
    attention: bool | None = None


class ErrorResponse(BaseModel):
    """Error message."""

    error: str


_ERRORS = {
    400: "The image is damaged, or the parameters do not fit the model.",
    401: "The bearer token is missing or invalid.",
    403: "Fetching URLs is disabled.",
    404: "The model does not exist.",
    405: "The method is not allowed.",
    408: "The request body did not arrive in time.",
    409: "The model is exported and has no attention maps.",
    413: "The request body is too long, or the image has too many pixels.",
    415: "The request body is neither JSON nor an image of a supported format.",
    422: "A parameter is unknown or out of range.",
    503: "The queue is full, or the model is loading or failed to load; see Retry-After.",
    504: "The response took too long.",
}


def _with_definitions(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a JSON schema with each reference replaced by its definition: inside OpenAPI they would lead nowhere."""
    if isinstance(schema, list):
        return [_with_definitions(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _with_definitions(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {name: _with_definitions(part, definitions) for name, part in schema.items() if name != "$defs"}


_REQUEST = InferenceRequest.model_json_schema()
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "Bytes of an image, with parameters in the query; or both in one JSON document.",
        "content": {
            "application/json": {"schema": _with_definitions(_REQUEST, _REQUEST["$defs"])},
            "application/octet-stream": _IMAGE,
            "image/*": _IMAGE,
        },
    }
}


def _error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses}


_INFERENCE: dict[str, Any] = {
    "response_model": list[DetectedObject] | list[Segment],
    "responses": _error_responses(400, 401, 403, 404, 408, 413, 415, 422, 503, 504),
    "openapi_extra": _BODY,
}
PREDICT: dict[str, Any] = {**_INFERENCE, "summary": "Detect or segment with the first model"}
PREDICT_BY_NAME: dict[str, Any] = {**_INFERENCE, "summary": "Detect or segment"}
ATTENTION: dict[str, Any] = {
    **_INFERENCE,
    "response_model": AttentionMaps,
    "responses": _error_responses(*_ERRORS),
    "summary": "Attention maps of detected objects",
}
HEALTH: dict[str, Any] = {"summary": "Liveness", "response_model": Health}
READY: dict[str, Any] = {
    "summary": "Readiness",
    "response_model": Readiness,
    "responses": {503: {"model": Readiness, "description": "The service is not ready."}},
}
MODELS: dict[str, Any] = {"summary": "List models", "responses": _error_responses(401)}
METRICS: dict[str, Any] = {
    "summary": "Prometheus metrics",
    "response_class": PlainTextResponse,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_error_responses(401)},
}
