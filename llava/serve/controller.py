"""Runs the controller: workers register with it, and it passes each request to one that serves the model.

Without a cluster token it works on this machine only. To reach further, give controller and workers the same token, in
the environment variable LLAVA_CLUSTER_TOKEN or in a file, and say where workers may be:

    LLAVA_CLUSTER_TOKEN=... python -m llava.serve.controller --host 0.0.0.0 --port 10000 --allow-worker 10.1.0.0/16
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import ConfigDict

from llava.command_line import run
from llava.errors import ModelNotFound, NoWorker
from llava.serve.cluster.access import ClusterAccess
from llava.serve.cluster.membership import Membership
from llava.serve.cluster.registry import DispatchMethod, Registry
from llava.serve.cluster.relay import Relay
from llava.serve.cluster.worker_client import WorkerClient
from llava.serve.protocol.framing import Events, Frames, Framing, Whole
from llava.serve.protocol.original import (
    CHALLENGE_HEADER,
    CHAT_PATH,
    GENERATE_PATH,
    HEART_BEAT_EXPIRATION_S,
    DeregisterWorker,
    GenerateRequest,
    GetWorkerAddress,
    HeartBeat,
    Message,
    Name,
    RegisterWorker,
)
from llava.serve.service import flags
from llava.serve.service.app import Limits, add_health, create_app, serve
from llava.serve.service.security import AddressPolicy, ApiKeys, ClusterToken, for_this_machine_only

logger = logging.getLogger("llava.serve.controller")

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
"""Behind the cluster token rather than an API key; see `llava.serve.cluster.access`."""


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """All that the command line sets."""

    dispatch_method: DispatchMethod = "shortest_queue"
    cluster_token: ClusterToken | None = None
    api_keys: ApiKeys | None = None
    """None: clients need no key."""
    local_only: bool = False
    """Without keys, clients on other machines are not answered."""
    insecure: bool = False
    """Registrations without a token are taken from other machines, too."""
    allowed_workers: AddressPolicy = field(default_factory=AddressPolicy)
    """Where workers may be, beside this machine."""
    first_token_timeout_s: float = 300.0
    """From sending a request to a worker until its first byte."""
    idle_timeout_s: float = 60.0
    """Between two pieces of a stream."""
    heart_beat_expiration_s: float = HEART_BEAT_EXPIRATION_S
    """A worker not heard of for so long is forgotten."""
    limits: Limits = field(default_factory=Limits)


class ChatRoute(Message):
    """What a controller needs to know of a chat request; the worker reads the rest."""

    model_config = ConfigDict(extra="allow")

    model: Name
    stream: bool | None = False


def create_controller_app(settings: ControllerSettings | None = None) -> FastAPI:
    """The controller as an ASGI app. It opens no connection and starts no task before it is started itself."""
    settings = settings or ControllerSettings()
    access = ClusterAccess(settings.cluster_token, settings.insecure)
    registry = Registry(settings.dispatch_method, expiration_s=settings.heart_beat_expiration_s)
    client = WorkerClient()
    membership = Membership(registry, client, access, settings.allowed_workers)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client, membership.upkeep():
            yield

    app = create_app(
        title="LLaVA controller",
        limits=settings.limits,
        keys=settings.api_keys,
        guards=dict.fromkeys(CLUSTER_PATHS, access.owner),
        cluster_token=settings.cluster_token,
        local_only=settings.local_only,
        lifespan=lifespan,
    )
    app.state.registry = registry
    app.state.metrics.registry.register(_WorkerFigures(registry))
    add_health(app)
    relay = Relay(
        registry,
        client,
        app.state.metrics,
        first_token_timeout_s=settings.first_token_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    )
    app.state.lifecycle.on_cut_off(relay.cut_off)
    _add_cluster_routes(app, membership, registry, access)
    _add_client_routes(app, registry, relay)
    return app


def _add_cluster_routes(app: FastAPI, membership: Membership, registry: Registry, access: ClusterAccess) -> None:
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
        """This controller as a worker of another one."""
        status = registry.totals()
        if status is None:
            raise NoWorker("no worker has registered yet.", retry_after_s=5)
        nonce = request.headers.get(CHALLENGE_HEADER)
        if nonce and access.token is not None:
            status.proof = access.token.prove(nonce)
        return status.model_dump(exclude_none=True)


def _add_client_routes(app: FastAPI, registry: Registry, relay: Relay) -> None:
    @app.post("/list_models", tags=["clients"])
    async def list_models() -> dict[str, list[str]]:
        return {"models": registry.models()}

    @app.post(GENERATE_PATH, tags=["clients"], response_class=Response)
    async def worker_generate_stream(body: GenerateRequest, request: Request) -> Response:
        return await relay.answer(request.receive, GENERATE_PATH, body.model, await request.body(), Frames())

    @app.post(CHAT_PATH, tags=["clients"], response_class=Response)
    async def chat_completions(body: ChatRoute, request: Request) -> Response:
        framing: Framing = Events() if body.stream else Whole()
        return await relay.answer(request.receive, CHAT_PATH, body.model, await request.body(), framing)

    def described(model: str) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": registry.registered_at(model), "owned_by": "llava"}

    @app.get("/v1/models", tags=["clients"])
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [described(model) for model in registry.models()]})

    @app.get("/v1/models/{model:path}", tags=["clients"])
    async def model(model: str) -> JSONResponse:
        return JSONResponse(described(model))


class _WorkerFigures(Collector):
    """The workers as metrics, as they are when somebody looks."""

    def __init__(self, registry: Registry):
        self._registry = registry

    def collect(self) -> Iterable[GaugeMetricFamily]:
        up = GaugeMetricFamily("llava:worker_up", "1 while requests are sent to it", labels=["worker"])
        busy = GaugeMetricFamily("llava:worker_in_flight", "requests under way there", labels=["worker"])
        age = GaugeMetricFamily("llava:heartbeat_age_seconds", "since it was heard of", labels=["worker"])
        for name, routable, in_flight, heard_s in self._registry.figures():
            up.add_metric([name], float(routable))
            busy.add_metric([name], in_flight)
            age.add_metric([name], heard_s)
        return [up, busy, age]


# Command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="localhost", help="name or address to listen on (default: localhost)")
    parser.add_argument("--port", type=flags.port, default=21001, help="0 takes a free one (default: 21001)")
    parser.add_argument(
        "--dispatch-method",
        choices=("lottery", "shortest_queue"),
        default="shortest_queue",
        help="how a worker is chosen: by chance and speed, or by load (default: shortest_queue)",
    )
    parser.add_argument(
        "--cluster-token-file",
        metavar="FILE",
        help="what workers must show to register, one token a line (default: LLAVA_CLUSTER_TOKEN)",
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="what clients must show, one key a line (default: LLAVA_API_KEY; without either, nothing)",
    )
    parser.add_argument(
        "--allow-worker",
        action="append",
        default=[],
        metavar="HOST_OR_CIDR",
        help="where workers may be, beside this machine; repeat for several (default: nowhere else)",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="without token or keys, let other machines ask and register workers (default: this machine only)",
    )
    parser.add_argument(
        "--first-token-timeout", type=flags.some_seconds, default=300.0, metavar="S", help="in seconds (default: 300)"
    )
    parser.add_argument(
        "--idle-timeout",
        type=flags.some_seconds,
        default=60.0,
        metavar="S",
        help="between two pieces, in seconds (default: 60)",
    )
    parser.add_argument(
        "--heart-beat-expiration",
        type=flags.some_seconds,
        default=float(HEART_BEAT_EXPIRATION_S),
        metavar="S",
        help="a worker silent for so many seconds is forgotten (default: 30)",
    )
    flags.add_limit_arguments(parser)


def main(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    return serve(create_controller_app(settings), args.host, args.port, drain_timeout_s=args.drain_timeout)


def settings_from(args: argparse.Namespace) -> ControllerSettings:
    """Reads the files that the arguments name.

    Raises:
        InvalidRequest: one of them cannot be used.
    """
    keys = ApiKeys.from_settings(args.api_key_file)
    return ControllerSettings(
        dispatch_method=args.dispatch_method,
        cluster_token=ClusterToken.from_settings(args.cluster_token_file),
        api_keys=keys,
        local_only=for_this_machine_only(args.host, keys, insecure=args.insecure),
        insecure=args.insecure,
        allowed_workers=AddressPolicy.parse(args.allow_worker),
        first_token_timeout_s=args.first_token_timeout,
        idle_timeout_s=args.idle_timeout,
        heart_beat_expiration_s=args.heart_beat_expiration,
        limits=Limits(requests_per_minute=args.requests_per_minute),
    )


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
