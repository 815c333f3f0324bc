"""The application: routes and their documents, and how errors are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transformers_detr.serving import schemas
from transformers_detr.serving.auth import holds_token, require_token
from transformers_detr.serving.errors import Refusal
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.request_body import discard_body
from transformers_detr.serving.request_parameters import Parameters, explain
from transformers_detr.serving.runner import ServedModel
from transformers_detr.serving.service import Service

_PAGE = Path(__file__).parent / "page"

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

Asked = Annotated[Parameters, Query()]


def create_app(
    loaders: Mapping[str, Callable[[], ServedModel]],
    limits: Limits | None = None,
    *,
    token: str | None = None,
    allow_urls: bool = False,
    preload: bool = False,
) -> FastAPI:
    """Make the application that any ASGI server can run.

    Args:
        loaders: What loads each model, by name; the first is that of `POST /`. See `model_loaders`.
        limits: Bounds of every request.
        token: The bearer token without which only the page, the documents, `/health` and `/ready` can be had.
        allow_urls: Whether the service fetches pictures whose URL it is sent, from public addresses.
        preload: Whether all models are loaded at the start. The first one always is.
    """
    service = Service(loaders, limits or Limits(), allow_urls, preload)
    app = FastAPI(
        title="DETR",
        description=schemas.ABOUT,
        version=schemas.INTERFACE_VERSION,
        lifespan=service.running,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.service, app.state.token = service, token
    app.add_middleware(_ResponseHeaders, service=service)
    _add_error_handlers(app)
    _add_questions(app, service)
    _add_state(app, service)
    _add_page(app)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    """Routes that take a picture."""
    guarded = [Depends(require_token)]

    @app.post("/models/{name:path}/attention", dependencies=guarded, **schemas.ATTENTION)
    async def attention(request: Request, name: str, parameters: Asked) -> Response:
        return await service.answer(request, name, "attend", parameters)

    @app.post("/models/{name:path}", dependencies=guarded, **schemas.QUESTION_BY_NAME)
    async def answer_by_name(request: Request, name: str, parameters: Asked) -> Response:
        return await service.answer(request, name, "find", parameters)

    @app.post("/", dependencies=guarded, **schemas.QUESTION)
    async def answer(request: Request, parameters: Asked) -> Response:
        return await service.answer(request, None, "find", parameters)


def _add_state(app: FastAPI, service: Service) -> None:
    """Routes that tell how the service is."""
    guarded = [Depends(require_token)]

    @app.get("/health", **schemas.HEALTH)
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", **schemas.READY)
    async def ready(request: Request) -> Response:
        is_ready, state = service.readiness(with_reasons=holds_token(request, app.state.token))
        return JSONResponse(state, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/models", dependencies=guarded, **schemas.MODELS)
    async def models() -> list[schemas.ModelEntry]:
        return [schemas.ModelEntry(**entry) for entry in service.describe()]

    @app.get("/metrics", dependencies=guarded, **schemas.METRICS)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=_PAGE))


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is `{"error": reason}`."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return await _error(request, refusal.status, refusal.reason, refusal.headers)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        return await _error(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await _error(request, HTTPStatus.UNPROCESSABLE_ENTITY, explain(error.errors()), None)


async def _error(request: Request, status: int, reason: str, headers: Mapping[str, str] | None) -> Response:
    closing = {} if await discard_body(request) else {"Connection": "close"}
    return JSONResponse({"error": reason}, status, {**(headers or {}), **closing})


class _ResponseHeaders:
    """Adds to every answer what browsers must not do with it, and ends connections when the service stops."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                closing: list[Any] = [(b"connection", b"close")] if self._service.stopping else []
                message = {**message, "headers": [*message["headers"], *_HEADERS, *closing]}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
