"""Request handler: body → image → prepared request → batch → response, with limits and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from transformers_detr.inference.sources import URL_PREFIXES
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.fetching import fetch
from transformers_detr.serving.image_decoding import decode_image
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.metrics import Metrics
from transformers_detr.serving.model_registry import RegisteredModel
from transformers_detr.serving.request_body import JSON, decode_base64, media_type, parse_json, read_body
from transformers_detr.serving.request_timing import RequestTiming
from transformers_detr.serving.runner import Endpoint, ModelRunner, PreparedRequest
from transformers_detr.serving.schemas import RequestParameters

Result = TypeVar("Result")

CLIENT_CLOSED_REQUEST = 499
"""Status in logs and metrics of requests whose client disconnected."""

logger = logging.getLogger(__name__)


class RequestHandler:
    """Handles inference requests.

    Args:
        limits: Limits of the service.
        metrics: Metrics of the service.
        allow_urls: Fetch images by URL.
        threads: Pool for decoding and preparing images and encoding responses.
    """

    def __init__(self, limits: Limits, metrics: Metrics, allow_urls: bool, threads: ThreadPoolExecutor):
        self._limits = limits
        self._metrics = metrics
        self._allow_urls = allow_urls
        self._threads = threads

    async def handle(
        self, request: Request, model: RegisteredModel, endpoint: Endpoint, parameters: RequestParameters
    ) -> Response:
        """Handle one request.

        Raises:
            ServiceError: The request is invalid or exceeds a limit, or the model failed.
        """
        timing, size, status = RequestTiming(), 0, int(HTTPStatus.INTERNAL_SERVER_ERROR)
        try:
            with model.slot():
                with timing.stage("read"):
                    body = await read_body(request, self._limits)
                size = len(body)
                is_json = media_type(request) == JSON
                content = await self._with_timeout(
                    request, model, self._infer(model, endpoint, parameters, body, is_json, timing)
                )
            status = int(HTTPStatus.OK)
            headers = {"Server-Timing": timing.header(), "Cache-Control": "no-store"}
            return Response(content, media_type=JSON, headers=headers)
        except ClientDisconnect:
            status = CLIENT_CLOSED_REQUEST
            return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody receives it
        except ServiceError as error:
            status = int(error.status_code)
            raise
        except Exception as error:
            _log_exception(error)
            raise ServiceError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal server error") from None
        finally:
            self._metrics.record_request(model.name, status, size, timing)
            logger.info("%d: %d bytes, %s", status, size, timing)

    async def _infer(
        self,
        model: RegisteredModel,
        endpoint: Endpoint,
        parameters: RequestParameters,
        body: bytes,
        is_json: bool,
        timing: RequestTiming,
    ) -> bytes:
        """Return the JSON response."""
        with timing.stage("load"):
            runner, batcher = await model.get()
        if is_json:
            with timing.stage("parse"):
                body, parameters = await self._parse(body, parameters)
        with timing.stage("decode"), batcher.expecting():
            prepared = await self._in_thread(self._prepare, runner, endpoint, parameters, body)
        del body
        result = await batcher.submit(prepared)
        timing.stages |= {"queue": result.queued_seconds, "model": result.model_seconds}
        timing.batch_size = result.batch_size
        with timing.stage("write"):
            return await self._in_thread(_encode_response, runner, prepared, result.output)

    async def _parse(self, body: bytes, parameters: RequestParameters) -> tuple[bytes, RequestParameters]:
        """Return the encoded image of a JSON body, fetched if given by URL, and the parameters."""
        document = await self._in_thread(parse_json, body)
        if not document.inputs.startswith(URL_PREFIXES):
            content = await self._in_thread(decode_base64, document.inputs)
        elif self._allow_urls:
            max_bytes, seconds = self._limits.image_bytes, self._limits.body_seconds
            content = await asyncio.to_thread(fetch, document.inputs, max_bytes, seconds)
        else:
            raise ServiceError(HTTPStatus.FORBIDDEN, "fetching URLs is disabled; send the image itself")
        return content, document.parameters or parameters

    def _prepare(
        self, runner: ModelRunner, endpoint: Endpoint, parameters: RequestParameters, content: bytes
    ) -> PreparedRequest:
        return runner.prepare(endpoint, parameters, decode_image(content, self._limits.pixels, runner.num_channels))

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _with_timeout(
        self, request: Request, model: RegisteredModel, inference: Coroutine[Any, Any, Result]
    ) -> Result:
        """Await the inference, unless the client disconnects or the time is over first."""
        task = asyncio.create_task(inference)
        disconnected = asyncio.create_task(_until_disconnect(request))
        try:
            seconds = self._limits.response_seconds
            await asyncio.wait({task, disconnected}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if disconnected.done():
                raise ClientDisconnect
            if model.state == "loading":
                raise ServiceError(HTTPStatus.SERVICE_UNAVAILABLE, f"the model {model.name} is still loading", 10)
            raise ServiceError(HTTPStatus.GATEWAY_TIMEOUT, f"no response within {seconds:g} seconds")
        finally:
            task.cancel()
            disconnected.cancel()
            await asyncio.gather(task, disconnected, return_exceptions=True)


async def _until_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode_response(runner: ModelRunner, prepared: PreparedRequest, output: Any) -> bytes:
    return json.dumps(runner.to_response(prepared, output), ensure_ascii=False, allow_nan=False).encode()


def _log_exception(error: Exception) -> None:
    """Log type and traceback, but not the message, which may contain request data."""
    logger.error("%s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
