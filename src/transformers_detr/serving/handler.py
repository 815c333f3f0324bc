"""The path of one request: body → picture → work → batch → answer, with its bounds and its measurements."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from transformers_detr.serving.errors import ClientGone, Refusal
from transformers_detr.serving.fetching import fetch
from transformers_detr.serving.image_decoding import open_picture
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.metrics import Metrics
from transformers_detr.serving.model_registry import HostedModel
from transformers_detr.serving.request_body import JSON, media_type, read_body
from transformers_detr.serving.request_parameters import URL_PREFIXES, Parameters, decode_base64, read_json
from transformers_detr.serving.request_timing import Timing
from transformers_detr.serving.runner import Kind, ServedModel, Work

Result = TypeVar("Result")

CLIENT_GONE = 499
"""The status under which requests are counted whose client did not wait."""

logger = logging.getLogger(__name__)


class RequestPath:
    """Answers requests about pictures.

    Args:
        limits: Bounds of the service.
        metrics: Counts.
        allow_urls: Whether pictures may be given by URL.
        threads: Where pictures are decoded and prepared, and answers written.
    """

    def __init__(self, limits: Limits, metrics: Metrics, allow_urls: bool, threads: ThreadPoolExecutor):
        self._limits = limits
        self._metrics = metrics
        self._allow_urls = allow_urls
        self._threads = threads

    async def answer(self, request: Request, hosted: HostedModel, kind: Kind, parameters: Parameters) -> Response:
        """Answer one request.

        Raises:
            Refusal: It gets no answer, for the reason given.
        """
        timing, size, status = Timing(), 0, int(HTTPStatus.INTERNAL_SERVER_ERROR)
        try:
            with hosted.place():
                with timing.stage("read"):
                    body = await read_body(request, self._limits)
                size = len(body)
                is_json = media_type(request) == JSON
                found = await self._in_time(
                    request, hosted, self._find(hosted, kind, parameters, body, is_json, timing)
                )
            status = int(HTTPStatus.OK)
            headers = {"Server-Timing": timing.header(), "Cache-Control": "no-store"}
            return Response(found, media_type=JSON, headers=headers)
        except ClientGone:
            status = CLIENT_GONE
            return Response(status_code=CLIENT_GONE)  # nobody reads it
        except Refusal as refusal:
            status = int(refusal.status)
            raise
        except Exception as error:
            _log_failure(error)
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a fault of the service") from None
        finally:
            self._metrics.finished(hosted.name, status, size, timing)
            logger.info("%d: %d bytes, %s", status, size, timing)

    async def _find(
        self, hosted: HostedModel, kind: Kind, parameters: Parameters, body: bytes, is_json: bool, timing: Timing
    ) -> bytes:
        """Return the answer as JSON."""
        with timing.stage("load"):
            model, batcher = await hosted.loaded()
        if is_json:
            with timing.stage("parse"):
                body, parameters = await self._unpack(body, parameters)
        with timing.stage("decode"), batcher.expecting():
            work = await self._in_thread(self._prepare, model, kind, parameters, body)
        del body
        outcome = await batcher.submit(work)
        timing.stages |= {"queue": outcome.queued_seconds, "model": outcome.model_seconds}
        timing.batch_size = outcome.batch_size
        with timing.stage("write"):
            return await self._in_thread(_as_json, model, work, outcome.result)

    async def _unpack(self, body: bytes, parameters: Parameters) -> tuple[bytes, Parameters]:
        """The encoded picture that a JSON body holds or points to, and its parameters."""
        question = await self._in_thread(read_json, body)
        if not question.inputs.startswith(URL_PREFIXES):
            content = await self._in_thread(decode_base64, question.inputs)
        elif self._allow_urls:
            most, seconds = self._limits.picture_bytes, self._limits.body_seconds
            content = await asyncio.to_thread(fetch, question.inputs, most, seconds)
        else:
            raise Refusal(HTTPStatus.FORBIDDEN, "this service does not fetch URLs; send the picture itself")
        return content, question.parameters or parameters

    def _prepare(self, model: ServedModel, kind: Kind, parameters: Parameters, content: bytes) -> Work:
        return model.prepare(kind, parameters, open_picture(content, self._limits.pixels))

    async def _in_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _in_time(self, request: Request, hosted: HostedModel, work: Coroutine[Any, Any, Result]) -> Result:
        """Do the work, unless the client goes or the time is over before."""
        task = asyncio.create_task(work)
        gone = asyncio.create_task(_until_gone(request))
        try:
            seconds = self._limits.answer_seconds
            await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientGone
            if hosted.state == "loading":
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"the model {hosted.name} is still being loaded", 10)
            raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, f"there was no answer within {seconds:g} seconds")
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _as_json(model: ServedModel, work: Work, result: Any) -> bytes:
    return json.dumps(model.answer(work, result), ensure_ascii=False, allow_nan=False).encode()


def _log_failure(error: Exception) -> None:
    """Say where it happened, but not what: the message may hold something of the request."""
    logger.error("%s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
