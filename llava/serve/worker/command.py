"""Runs a worker from the settings that the commands of all workers share."""

from __future__ import annotations

import argparse
import asyncio
import gc
from dataclasses import dataclass, field

from llava.command_line import FAILED
from llava.errors import InvalidRequest
from llava.serve.service.lifecycle import Lifecycle
from llava.serve.service.server import serve
from llava.serve.service.settings import ServiceSettings
from llava.serve.worker.app import create_worker_app
from llava.serve.worker.backend import Backend
from llava.serve.worker.heartbeat import Heartbeat
from llava.serve.worker.permits import DEFAULT_MAX_QUEUE
from llava.serve.worker.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything that the flags of `llava.serve.worker.arguments` set."""

    service: ServiceSettings = field(default_factory=ServiceSettings)
    """Address, access, limits and shutdown."""
    controller_address: str | None = None
    """URL of the controller to register with; None runs without a controller."""
    worker_address: str = ""
    """URL at which the controller reaches this worker."""
    max_running: int | None = None
    """Maximum number of answers written at once; None takes the engine's limit."""
    max_queue: int = DEFAULT_MAX_QUEUE
    """Maximum number of waiting answers; further requests are refused."""
    stream_interval: int = 2
    """Minimum number of tokens in each piece of a stream."""
    image_hosts: frozenset[str] = frozenset()
    """Hosts from which images may be fetched, in lower case."""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> WorkerSettings:
        """Reads the command line, and the files and environment variables that hold the secrets.

        Raises:
            InvalidRequest: the flags contradict each other, a file is unreadable, or a secret is not valid.
        """
        service = ServiceSettings.from_args(args)
        if args.port == 0 and not args.worker_address and not args.no_register:
            raise InvalidRequest(
                "--port 0 chooses a free port, so the controller cannot know this worker's address. "
                "Set it with --worker-address, or use a fixed port."
            )
        return cls(
            service=service,
            controller_address=None if args.no_register else args.controller_address,
            worker_address=args.worker_address or f"http://localhost:{args.port}",
            max_running=args.limit_model_concurrency,
            max_queue=args.max_queue,
            stream_interval=args.stream_interval,
            image_hosts=frozenset(host.lower() for host in args.allow_image_host),
        )


def run_worker(settings: WorkerSettings, backend: Backend, *, title: str) -> int:
    """Serves `backend` until a signal arrives; registers it once it has answered a first question.

    Returns:
        The exit code.

    Raises:
        LlavaError: the settings, the port or the backend do not allow it.
    """
    service = settings.service
    app = create_worker_app(
        backend,
        title=title,
        keys=service.api_keys,
        cluster_token=service.cluster_token,
        local_only=service.local_only,
        limits=service.limits,
        max_queue=settings.max_queue,
        stream_interval=settings.stream_interval,
    )
    worker: Worker = app.state.worker
    lifecycle: Lifecycle = app.state.lifecycle
    heartbeat = None
    if settings.controller_address is not None:
        heartbeat = Heartbeat(
            settings.controller_address, settings.worker_address, worker.status, token=service.cluster_token
        )
        worker.on_load_change = heartbeat.soon
        lifecycle.on_drain(heartbeat.stop)

    tasks: list[asyncio.Future[None]] = []  # asyncio keeps only weak references to tasks

    async def ready() -> None:
        await worker.start()
        # Libraries and model stay until the end; a full garbage collection that visits them would delay all streams.
        gc.collect()
        gc.freeze()
        tasks.append(asyncio.ensure_future(worker.watch(lifecycle)))
        if heartbeat is not None:
            await heartbeat.start()

    code = serve(app, service.host, service.port, ready=ready, drain_timeout_s=service.drain_timeout_s)
    return code if backend.healthy else FAILED
