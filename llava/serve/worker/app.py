"""Builds the HTTP app of a worker: the original's two routes, OpenAI's routes, health checks and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response
from prometheus_client import CollectorRegistry

from llava.errors import ModelNotFound
from llava.serve.protocol.openai_replies import ChatCompletion, ModelCard, ModelCardList, ReplyEncoder
from llava.serve.protocol.openai_requests import ChatRequest
from llava.serve.protocol.original import (
    CHALLENGE_HEADER,
    CHAT_PATH,
    GENERATE_PATH,
    STATUS_PATH,
    GenerateRequest,
    WorkerStatus,
)
from llava.serve.service.app import create_app
from llava.serve.service.health import HEALTH_PATHS, add_health
from llava.serve.service.middleware import Limits
from llava.serve.service.security import ApiKeys, ClusterToken
from llava.serve.worker.backend import Backend
from llava.serve.worker.permits import DEFAULT_MAX_QUEUE
from llava.serve.worker.streams import CLIENT_GONE, chunks, collect, frames, respond, while_connected
from llava.serve.worker.worker import KEEP_ALIVE_S, Worker


def create_worker_app(
    backend: Backend,
    *,
    title: str = "LLaVA worker",
    keys: ApiKeys | None = None,
    cluster_token: ClusterToken | None = None,
    local_only: bool = False,
    limits: Limits | None = None,
    registry: CollectorRegistry | None = None,
    max_queue: int = DEFAULT_MAX_QUEUE,
    stream_interval: int = 1,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> FastAPI:
    """Returns the app of a worker. Its `app.state.worker` still has to be started (`Worker.start`).

    Args:
        keys: API keys that clients must send; the controller sends `cluster_token` instead.
        local_only: without keys, answer only programs on this machine, and the controller if it sends the token.
        max_queue: number of choices that may wait; further requests get 503 at once.
        stream_interval: smallest number of tokens in a frame or chunk.
        keep_alive_s: longest silence on a stream in seconds.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await worker.close()

    app = create_app(
        title=title,
        limits=limits,
        keys=keys,
        # The controller asks for the status before it answers a registration, and sends its token only after that.
        public_paths=HEALTH_PATHS | {STATUS_PATH},
        registry=registry,
        cluster_token=cluster_token,
        local_only=local_only,
        lifespan=lifespan,
    )
    worker = Worker(
        backend, app.state.metrics, max_queue=max_queue, stream_interval=stream_interval, keep_alive_s=keep_alive_s
    )
    app.state.worker = worker
    app.state.lifecycle.on_cut_off(worker.cut_off)
    add_health(app, live=lambda: None if backend.healthy else "the backend has failed", ready=worker.trouble)
    _add_original_routes(app, worker, cluster_token)
    _add_openai_routes(app, worker)
    return app


def _add_original_routes(app: FastAPI, worker: Worker, cluster_token: ClusterToken | None) -> None:
    @app.post(STATUS_PATH, response_model_exclude_none=True, tags=["original"])
    async def worker_get_status(
        challenge: Annotated[str | None, Header(alias=CHALLENGE_HEADER, max_length=128)] = None,
    ) -> WorkerStatus:
        status = worker.status()
        if challenge and cluster_token is not None:
            status.proof = cluster_token.prove(challenge)
        return status

    @app.post(GENERATE_PATH, response_class=Response, tags=["original"])
    async def worker_generate_stream(body: GenerateRequest, request: Request) -> Response:
        encode = partial(frames, prompt=body.prompt)
        return await respond(request, worker.legacy(body), encode, "application/octet-stream")


def _add_openai_routes(app: FastAPI, worker: Worker) -> None:
    @app.post(CHAT_PATH, response_model=ChatCompletion, tags=["OpenAI"])
    async def chat_completions(body: ChatRequest, request: Request) -> Any:
        encoder = ReplyEncoder(body.model)
        events = worker.chat(body)
        if body.stream:
            encode = partial(chunks, encoder=encoder, num_choices=body.num_choices, with_usage=body.wants_usage)
            return await respond(request, events, encode, "text/event-stream")
        answers = await while_connected(request, collect(events, body.num_choices))
        return Response(status_code=CLIENT_GONE) if answers is None else encoder.whole(answers)

    @app.get("/v1/models", tags=["OpenAI"])
    async def list_models() -> ModelCardList:
        return ModelCardList(data=[ModelCard(id=name, created=worker.created) for name in worker.backend.names])

    @app.get("/v1/models/{model:path}", tags=["OpenAI"])
    async def retrieve_model(model: str) -> ModelCard:
        if model not in worker.backend.names:
            raise ModelNotFound(model, worker.backend.names)
        return ModelCard(id=model, created=worker.created)
