"""Builds the FastAPI app of a service: request ids, an access log, limits, access control and one format for errors.

A service is `create_app(...)`, its routes, `add_health(...)` and `serve(...)`. A route may raise any `LlavaError`: the
client receives it in OpenAI's format or, on `frame_paths`, as a frame. Any other exception becomes a 500 without
details, and its traceback goes to the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from llava import __version__
from llava.serve.protocol.original import GENERATE_PATH
from llava.serve.service.error_responses import add_error_handlers
from llava.serve.service.health import HEALTH_PATHS
from llava.serve.service.lifecycle import Lifecycle
from llava.serve.service.metrics import Metrics
from llava.serve.service.middleware import (
    AccessLogMiddleware,
    AdmissionMiddleware,
    BodyLimitMiddleware,
    Limits,
    TracingMiddleware,
)
from llava.serve.service.rates import RateLimiter
from llava.serve.service.security import AccessPolicy, ApiKeys, ClusterToken, Guard

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


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
    """Returns an app without routes.

    Args:
        title: name of the service in its OpenAPI document.
        limits: bounds on each request; the defaults of `Limits` if None.
        keys: API keys, required on every path outside `public_paths`. None requires no key.
        public_paths: paths that need no key.
        registry: collects the app's metrics; a new one if None.
        cluster_token: accepted, in its own header, in place of an API key.
        guards: replaces the key check on these paths. A guard raises to refuse a caller, before the body is read.
        frame_paths: paths that report errors as frames of the original's protocol.
        local_only: refuses callers on other machines if there are no keys.
        lifespan: runs around the life of the app.

    Returns:
        The app. `app.state.lifecycle` holds its `Lifecycle`, `app.state.metrics` its `Metrics`.
    """
    limits = limits or Limits()
    lifecycle = Lifecycle()
    policy = AccessPolicy(keys, cluster_token, public_paths, guards or {}, local_only)
    rates = RateLimiter(limits.requests_per_minute) if limits.requests_per_minute else None
    app = FastAPI(
        title=title,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's documentation pages load scripts from other hosts
        redoc_url=None,
        middleware=[
            Middleware(TracingMiddleware),
            Middleware(AccessLogMiddleware, frame_paths),
            Middleware(AdmissionMiddleware, policy, lifecycle, rates),
            Middleware(BodyLimitMiddleware, limits),
        ],
    )
    app.state.lifecycle = lifecycle
    app.state.metrics = Metrics(registry)
    add_error_handlers(app, frame_paths)
    return app
