"""Builds the controller's app."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from llava.serve.cluster.access import ClusterAccess
from llava.serve.cluster.membership import Membership
from llava.serve.cluster.metrics import WorkerCollector
from llava.serve.cluster.proxy import Proxy
from llava.serve.cluster.registry import Registry
from llava.serve.cluster.routes import (
    CLUSTER_PATHS,
    add_generation_routes,
    add_membership_routes,
    add_model_routes,
    add_status_routes,
)
from llava.serve.cluster.settings import ControllerSettings
from llava.serve.cluster.worker_client import WorkerClient
from llava.serve.service.app import create_app
from llava.serve.service.health import add_health


def create_controller_app(settings: ControllerSettings | None = None) -> FastAPI:
    """Returns the controller as an ASGI app. It opens no connection and starts no task until it is itself started.

    `app.state.registry` holds its `Registry`.
    """
    settings = settings or ControllerSettings()
    service = settings.service
    access = ClusterAccess(service.cluster_token, service.insecure)
    registry = Registry(settings.dispatch_method, expiration_s=settings.heart_beat_expiration_s)
    client = WorkerClient()
    membership = Membership(registry, client, access, settings.allowed_workers)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, membership.upkeep():
            yield

    app = create_app(
        title="LLaVA controller",
        limits=service.limits,
        keys=service.api_keys,
        guards=dict.fromkeys(CLUSTER_PATHS, access.owner),
        cluster_token=service.cluster_token,
        local_only=service.local_only,
        lifespan=lifespan,
    )
    app.state.registry = registry
    app.state.metrics.registry.register(WorkerCollector(registry))
    proxy = Proxy(
        registry,
        client,
        app.state.metrics,
        first_token_timeout_s=settings.first_token_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    )
    app.state.lifecycle.on_cut_off(proxy.cut_off)
    add_health(app)
    add_membership_routes(app, membership)
    add_status_routes(app, registry, access)
    add_generation_routes(app, proxy)
    add_model_routes(app, registry)
    return app
