"""FastAPI application: routes, error handlers and response headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transformers_detr.serving import schemas
from transformers_detr.serving.auth import has_valid_token, require_token
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.request_body import discard_body, validation_message
from transformers_detr.serving.runner import ModelRunner
from transformers_detr.serving.schemas import RequestParameters
from transformers_detr.serving.state import ServiceState
from transformers_detr.serving.trusted_hosts import TrustedHosts

_PAGE = Path(__file__).parent / "page"

_POLICY = "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors "
_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]

QueryParameters = Annotated[RequestParameters, Query()]


def create_app(
    loaders: Mapping[str, Callable[[], ModelRunner]],
    limits: Limits | None = None,
    *,
    token: str | None = None,
    allow_urls: bool = False,
    preload: bool = False,
    allow_hosts: Sequence[str] = (),
    allow_origins: Sequence[str] = (),
    embed_in: Sequence[str] = (),
) -> FastAPI:
    """Create the application, which any ASGI server can run.

    Args:
        loaders: Function that loads each model, by name; the first model serves `POST /`. See `model_loaders`.
        limits: Limits of every request.
        token: Bearer token. Without it, clients only get the page, `/openapi.json`, `/health` and `/ready`.
        allow_urls: Fetch images by URL, from public addresses.
        preload: Load all models at startup instead of the first one only.
        allow_hosts: Names of the service beside those of the local machine and IP addresses; `*` for any.
        allow_origins: Origins of other pages that may call the service; `*` for any.
        embed_in: Origins of pages that may show the page in a frame.

    Returns:
        The application.

    Raises:
        ValueError: The token is empty.
    """
    if token is not None and not token.strip():
        raise ValueError("the token is empty: give one, or none to serve without a token")
    state = ServiceState(loaders, limits or Limits(), allow_urls, preload)
    app = FastAPI(
        title="DETR",
        description=schemas.DESCRIPTION,
        version=schemas.API_VERSION,
        lifespan=state.lifespan,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
    )
    app.state.service, app.state.token = state, token
    if allow_origins:
        methods, headers = ["GET", "POST"], ["authorization", "content-type"]
        app.add_middleware(CORSMiddleware, allow_origins=allow_origins, allow_methods=methods, allow_headers=headers)
    app.add_middleware(TrustedHosts, hosts=allow_hosts, origins=allow_origins)
    app.add_middleware(_ResponseHeaders, state=state, frames=" ".join(embed_in) or "'none'")
    _add_error_handlers(app)
    _add_inference_routes(app, state)
    _add_status_routes(app, state)
    _add_page(app)
    return app


def _add_inference_routes(app: FastAPI, state: ServiceState) -> None:
    guarded = [Depends(require_token)]

    @app.post("/models/{name:path}/attention", dependencies=guarded, **schemas.ATTENTION)
    async def attention(request: Request, name: str, parameters: QueryParameters) -> Response:
        return await state.handle(request, name, "attention", parameters)

    @app.post("/models/{name:path}", dependencies=guarded, **schemas.PREDICT_BY_NAME)
    async def predict_by_name(request: Request, name: str, parameters: QueryParameters) -> Response:
        return await state.handle(request, name, "predict", parameters)

    @app.post("/", dependencies=guarded, **schemas.PREDICT)
    async def predict(request: Request, parameters: QueryParameters) -> Response:
        return await state.handle(request, None, "predict", parameters)


def _add_status_routes(app: FastAPI, state: ServiceState) -> None:
    guarded = [Depends(require_token)]

    @app.get("/health", **schemas.HEALTH)
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", **schemas.READY)
    async def ready(request: Request) -> Response:
        is_ready, content = state.readiness(with_reasons=has_valid_token(request, app.state.token))
        return JSONResponse(content, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/models", dependencies=guarded, **schemas.MODELS)
    async def models() -> list[schemas.ModelInfo]:
        return [schemas.ModelInfo(**entry) for entry in state.list_models()]

    @app.get("/metrics", dependencies=guarded, **schemas.METRICS)
    async def metrics() -> Response:
        return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=_PAGE))


def _add_error_handlers(app: FastAPI) -> None:
    """Make every error response `{"error": message}`."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return await _error_response(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        message = validation_message(error.errors())
        return await _error_response(request, HTTPStatus.UNPROCESSABLE_ENTITY, message, None)


async def _error_response(
    request: Request, status: int, message: str, headers: Mapping[str, str] | None
) -> JSONResponse:
    close = {} if await discard_body(request) else {"Connection": "close"}
    return JSONResponse({"error": message}, status, {**(headers or {}), **close})


class _ResponseHeaders:
    """Middleware that adds security headers to every response, and `Connection: close` during shutdown."""

    def __init__(self, app: ASGIApp, state: ServiceState, frames: str):
        self._app = app
        self._state = state
        self._headers = [(b"content-security-policy", (_POLICY + frames).encode()), *_HEADERS]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                close: list[Any] = [(b"connection", b"close")] if self._state.stopping else []
                message = {**message, "headers": [*message["headers"], *self._headers, *close]}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
