"""Adds the controller's routes: those for workers and operators of the cluster, and those for clients."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict

from llava.errors import ModelNotFound, NoWorker
from llava.serve.cluster.access import ClusterAccess
from llava.serve.cluster.membership import Membership
from llava.serve.cluster.proxy import Proxy
from llava.serve.cluster.registry import Registry
from llava.serve.protocol.framing import EventFraming, Framing, JsonBodyFraming, NulFraming
from llava.serve.protocol.original import (
    CHALLENGE_HEADER,
    CHAT_PATH,
    GENERATE_PATH,
    DeregisterWorker,
    GenerateRequest,
    GetWorkerAddress,
    HeartBeat,
    Message,
    Name,
    RegisterWorker,
)

CLUSTER_PATHS: Final = frozenset(
    {
        "/register_worker",
        "/deregister_worker",
        "/receive_heart_beat",
        "/refresh_all_workers",
        "/get_worker_address",
        "/worker_get_status",
        "/metrics",
    }
)
"""Paths that require the cluster token instead of an API key; see `llava.serve.cluster.access`."""


class RoutedChatRequest(Message):
    """The fields of a chat request that decide where it goes. The worker validates the others."""

    model_config = ConfigDict(extra="allow")

    model: Name
    stream: bool | None = False


def add_membership_routes(app: FastAPI, membership: Membership) -> None:
    """Adds the routes by which workers join, report and leave."""

    @app.post("/register_worker", tags=["cluster"])
    async def register_worker(body: RegisterWorker, request: Request) -> None:
        await membership.register(body, request)

    @app.post("/deregister_worker", tags=["cluster"])
    async def deregister_worker(body: DeregisterWorker, request: Request) -> None:
        membership.deregister(body.worker_name, request)

    @app.post("/receive_heart_beat", tags=["cluster"])
    async def receive_heart_beat(body: HeartBeat, request: Request) -> dict[str, bool]:
        return {"exist": membership.heart_beat(body, request)}

    @app.post("/refresh_all_workers", tags=["cluster"])
    async def refresh_all_workers() -> None:
        membership.refresh()


def add_status_routes(app: FastAPI, registry: Registry, access: ClusterAccess) -> None:
    """Adds the routes that report where workers are and how busy the cluster is."""

    @app.post("/get_worker_address", tags=["cluster"])
    async def get_worker_address(body: GetWorkerAddress) -> dict[str, str]:
        try:
            worker = registry.choose(body.model)
        except (ModelNotFound, NoWorker):
            return {"address": ""}
        worker.handed_out()
        return {"address": worker.name}

    @app.post("/worker_get_status", tags=["cluster"])
    async def worker_get_status(request: Request) -> dict[str, Any]:
        """Reports this controller's status, which lets it serve as a worker of another controller."""
        status = registry.totals()
        if status is None:
            raise NoWorker("no worker has registered yet.", retry_after_s=5)
        nonce = request.headers.get(CHALLENGE_HEADER)
        if nonce and access.token is not None:
            status.proof = access.token.prove(nonce)
        return status.model_dump(exclude_none=True)


def add_generation_routes(app: FastAPI, proxy: Proxy) -> None:
    """Adds the routes that generate text, which are forwarded to a worker."""

    @app.post(GENERATE_PATH, tags=["clients"], response_class=Response)
    async def worker_generate_stream(body: GenerateRequest, request: Request) -> Response:
        return await proxy.forward(request.receive, GENERATE_PATH, body.model, await request.body(), NulFraming())

    @app.post(CHAT_PATH, tags=["clients"], response_class=Response)
    async def chat_completions(body: RoutedChatRequest, request: Request) -> Response:
        framing: Framing = EventFraming() if body.stream else JsonBodyFraming()
        return await proxy.forward(request.receive, CHAT_PATH, body.model, await request.body(), framing)


def add_model_routes(app: FastAPI, registry: Registry) -> None:
    """Adds the routes that list the models."""

    @app.post("/list_models", tags=["clients"])
    async def list_models() -> dict[str, list[str]]:
        return {"models": registry.models()}

    def model_card(model: str) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": registry.registered_at(model), "owned_by": "llava"}

    @app.get("/v1/models", tags=["clients"])
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model_card(model) for model in registry.models()]})

    @app.get("/v1/models/{model:path}", tags=["clients"])
    async def model(model: str) -> JSONResponse:
        return JSONResponse(model_card(model))
