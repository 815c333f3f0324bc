"""What the OpenAPI document says of each route."""

from __future__ import annotations

from typing import Any

from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from transformers_detr.serving.request_parameters import JsonQuestion

ABOUT = "Finds objects or segments in pictures, in the forms of the Hub's inference API."
INTERFACE_VERSION = "1.0"


class Box(BaseModel):
    """Corners in pixels of the upright picture; they may lie outside it."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class FoundObject(BaseModel):
    """An object, in the Hub's object-detection form."""

    model_config = ConfigDict(extra="forbid")

    score: float
    label: str
    box: Box
    class_id: int | None = Field(default=None, description="With `details`.")
    color: str | None = Field(default=None, description="With `details`: the color that drawings give the class.")


class FoundSegment(BaseModel):
    """A segment, in the Hub's image-segmentation form."""

    model_config = ConfigDict(extra="forbid")

    score: float | None = Field(description="None in semantic segmentation.")
    label: str
    mask: str = Field(description="A PNG of the size of the picture as base64, 255 in the segment.")
    class_id: int | None = Field(default=None, description="With `details`.")
    color: str | None = Field(default=None, description="With `details`: the color that drawings give the class.")


class QueryAttention(FoundObject):
    """An object, and where the query looked that found it."""

    attention: str = Field(description="A byte for each cell, row by row, 255 for the largest value, as base64.")


class AttentionMaps(BaseModel):
    """Where the decoder's last layer looked."""

    width: int
    height: int
    queries: list[QueryAttention]


class ModelState(BaseModel):
    """A model and whether it can be used."""

    name: str
    state: str = Field(description="unloaded, loading, ready or failed")
    reason: str | None = Field(default=None, description="Why it failed.")


class Readiness(BaseModel):
    """Whether requests should come."""

    status: str = Field(description="ready, not ready or stopping")
    models: list[ModelState]


class Health(BaseModel):
    """The process answers."""

    status: str


class ModelEntry(BaseModel):
    """What can be known of a model; of one that is not loaded, its name."""

    name: str
    state: str
    task: str | None = None
    default_threshold: float | None = None
    attention: bool | None = None


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


_PROBLEMS = {
    400: "The picture is damaged, or the parameters do not fit the model.",
    401: "The bearer token is missing or wrong.",
    403: "The service does not fetch URLs.",
    404: "There is no such model.",
    405: "The method is another.",
    408: "The body did not arrive in time.",
    409: "The model's backend gives no attention maps.",
    413: "The body is too long, or the picture has too many pixels.",
    415: "The body is neither JSON nor a picture of a known format.",
    422: "A parameter is unknown or out of range.",
    503: "Too many requests are waiting, or the model is being loaded or cannot be; see Retry-After.",
    504: "The answer took too long.",
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The bytes of a picture, with parameters in the query; or both in one JSON document.",
        "content": {
            "application/json": {"schema": JsonQuestion.model_json_schema()},
            "application/octet-stream": _PICTURE,
            "image/*": _PICTURE,
        },
    }
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _PROBLEMS[status]} for status in statuses}


_ASKING: dict[str, Any] = {
    "response_model": list[FoundObject] | list[FoundSegment],
    "responses": _problems(400, 401, 403, 404, 408, 413, 415, 422, 503, 504),
    "openapi_extra": _BODY,
}
QUESTION: dict[str, Any] = {**_ASKING, "summary": "Ask the first model"}
QUESTION_BY_NAME: dict[str, Any] = {**_ASKING, "summary": "Ask a model"}
ATTENTION: dict[str, Any] = {
    **_ASKING,
    "response_model": AttentionMaps,
    "responses": _problems(*_PROBLEMS),
    "summary": "Ask a model where its queries looked",
}
HEALTH: dict[str, Any] = {"summary": "Whether the process answers", "response_model": Health}
READY: dict[str, Any] = {
    "summary": "Whether requests should come",
    "response_model": Readiness,
    "responses": {503: {"model": Readiness, "description": "They should not."}},
}
MODELS: dict[str, Any] = {"summary": "The models", "responses": _problems(401)}
METRICS: dict[str, Any] = {
    "summary": "Counters in Prometheus' form",
    "response_class": PlainTextResponse,
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **_problems(401)},
}
