"""What every service shares: an app with ids, logs, limits, keys and one way to report errors; and how it is run.

A service is `create_app(...)`, its routes, `add_health(...)`, and `serve(...)`. Whatever a route raises that is a
`LlavaError` becomes an answer in OpenAI's shape (on `frame_paths`, a frame); everything else becomes a 500 without
details, and a traceback in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from llava import __version__
from llava.errors import InvalidField, LlavaError
from llava.serve.protocol.original import GENERATE_PATH
from llava.serve.service.lifecycle import Lifecycle, Phase
from llava.serve.service.metrics import Metrics
from llava.serve.service.middleware import (
    HEALTH_PATHS,
    Bounded,
    Doors,
    Gated,
    Guard,
    Limits,
    Logged,
    Traced,
    error_content,
)
from llava.serve.service.rates import RateLimiter
from llava.serve.service.security import ApiKeys, ClusterToken
from llava.serve.service.server import serve
from llava.serve.service.tracing import outgoing_headers, request_id

__all__ = [
    "HEALTH_PATHS",
    "Lifecycle",
    "Limits",
    "Metrics",
    "Stream",
    "add_health",
    "create_app",
    "invalid_field",
    "outgoing_headers",
    "request_id",
    "serve",
]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Check = Callable[[], str | None]
"""None when all is well, else a few words on what is not."""


def create_app(
    *,
    title: str,
    limits: Limits | None = None,
    keys: ApiKeys | None = None,
    public_paths: frozenset[str] = HEALTH_PATHS,
    registry: CollectorRegistry | None = None,
    cluster_token: ClusterToken | None = None,
    guards: Mapping[str, Guard] | None = None,
    frame_paths: frozenset[str] = frozenset({GENERATE_PATH}),
    local_only: bool = False,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """An app without routes.

    Args:
        keys: asked for on every path that is not in `public_paths`; None: on none.
        registry: where `app.state.metrics` lives; a new one if None.
        cluster_token: opens, in a header of its own, what an API key opens.
        guards: paths with a rule of their own in place of keys; a guard raises for those who may not come in, before
            anything of the body is read.
        frame_paths: paths whose errors are frames of the original's protocol.
        local_only: without keys, answer nobody on another machine.

    Returns:
        The app; `app.state.lifecycle` (`Lifecycle`) and `app.state.metrics` (`Metrics`) belong to it.
    """
    limits = limits or Limits()
    lifecycle = Lifecycle()
    doors = Doors(keys, cluster_token, public_paths, guards or {}, frame_paths, local_only)
    rates = RateLimiter(limits.requests_per_minute) if limits.requests_per_minute else None
    app = FastAPI(
        title=title,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        middleware=[
            Middleware(Traced),
            Middleware(Logged, doors),
            Middleware(Gated, doors, lifecycle, rates),
            Middleware(Bounded, limits),
        ],
    )
    app.state.lifecycle = lifecycle
    app.state.metrics = Metrics(registry)
    _handle_errors(app, frame_paths)
    return app


def add_health(
    app: FastAPI,
    *,
    live: Check | None = None,
    ready: Check | None = None,
) -> None:
    """Adds GET /health/live, /health/ready and /metrics.

    Args:
        live: what is beyond recovery (500).
        ready: what stands in the way of requests (503), beside starting and draining.
    """
    lifecycle: Lifecycle = app.state.lifecycle

    def health(problem: str | None, failure: int) -> JSONResponse:
        content = {"status": "ok"} if problem is None else {"status": "failing", "reason": problem}
        return JSONResponse(content, 200 if problem is None else failure)

    @app.get("/health/live", tags=["health"])
    async def health_live() -> JSONResponse:
        return health(live() if live else None, 500)

    @app.get("/health/ready", tags=["health"])
    async def health_ready() -> JSONResponse:
        if lifecycle.phase is not Phase.READY:
            return health(lifecycle.phase.value, 503)
        return health(ready() if ready else None, 503)

    @app.get("/metrics", tags=["health"])
    async def metrics() -> Response:
        body, kind = app.state.metrics.text()
        return Response(body, headers={"content-type": kind})


class Stream(StreamingResponse):
    """A streamed answer whose generator is closed as soon as the client has gone, wherever the two stood.

    Starlette only stops asking a generator for more; its `finally`, which returns permits and stops the model, would
    run when the garbage collector comes by.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        *,
        on_close: Callable[[], Awaitable[None]] | None = None,
        **arguments: Any,
    ):
        """Args: `on_close` runs at the end in any case, also when the client left before `content` began to run, and
        with it none of its `finally` clauses."""
        super().__init__(content, **arguments)
        self._generator = content
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Cancelled once, not as a scope: the generator's clean-up may wait for what it closes.
            sending.cancel()
            leaving.cancel()
            await asyncio.wait({sending, leaving})
            await self._generator.aclose()
            if self._on_close is not None:
                await self._on_close()
        if not sending.cancelled():
            sending.result()


def invalid_field(error: RequestValidationError | ValidationError) -> InvalidField:
    """The first thing that is wrong with a request, without the value that is."""
    errors: Sequence[Any] = error.errors()
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return InvalidField("the body is not valid JSON.")
    text = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidField(f"{where or 'body'}: {text}{more}.", param=where or None)


def _handle_errors(app: FastAPI, frame_paths: frozenset[str]) -> None:
    def answer(request: Request, error: LlavaError) -> Response:
        body, headers = error_content(error, framed=request.url.path in frame_paths)
        return Response(body, error.status, headers)

    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {}

    async def typed(request: Request, error: LlavaError) -> Response:
        return answer(request, error)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, invalid_field(error))

    async def http(request: Request, error: HTTPException) -> Response:
        ours = LlavaError(_HTTP_MESSAGES.get(error.status_code, str(error.detail)))
        ours.status, ours.code = error.status_code, _HTTP_CODES.get(error.status_code, "http_error")
        response = answer(request, ours)
        response.headers.update(error.headers or {})
        return response

    handlers = {LlavaError: typed, RequestValidationError: invalid, HTTPException: http}
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


_HTTP_CODES = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}
_HTTP_MESSAGES = {
    400: "the request cannot be read.",
    404: "there is no such path here.",
    405: "this path does not answer to that method.",
}
