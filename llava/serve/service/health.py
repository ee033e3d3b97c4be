"""Adds the routes by which an operator watches a service: health checks and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from llava.serve.service.lifecycle import Lifecycle, Phase

HEALTH_PATHS: Final = frozenset({"/health/live", "/health/ready"})
MONITORING_PATHS: Final = HEALTH_PATHS | {"/metrics"}
"""Paths that are also answered while the service drains. Requests to them do not count against rate limits."""

HealthCheck = Callable[[], str | None]
"""Returns None if all is well, otherwise a short description of the problem."""


def add_health(
    app: FastAPI,
    *,
    live: HealthCheck | None = None,
    ready: HealthCheck | None = None,
) -> None:
    """Adds GET /health/live, /health/ready and /metrics.

    Args:
        app: from `llava.serve.service.app.create_app`.
        live: reports a failure that only a restart can repair (HTTP 500).
        ready: reports why requests cannot be served right now (HTTP 503). Start-up and draining need no check.
    """
    lifecycle: Lifecycle = app.state.lifecycle

    def health(problem: str | None, failure_status: int) -> JSONResponse:
        if problem is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "failing", "reason": problem}, failure_status)

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
        body, content_type = app.state.metrics.text()
        return Response(body, headers={"content-type": content_type})
