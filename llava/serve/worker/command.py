"""What the commands of all workers share: their flags, and how a worker runs from its start to its end."""

from __future__ import annotations

import argparse
import asyncio
import gc

from llava.command_line import FAILED
from llava.errors import InvalidRequest
from llava.serve.service import flags
from llava.serve.service.lifecycle import Lifecycle
from llava.serve.service.middleware import Limits
from llava.serve.service.security import ApiKeys, ClusterToken, for_this_machine_only
from llava.serve.service.server import serve
from llava.serve.worker.app import create_worker_app
from llava.serve.worker.backend import Backend
from llava.serve.worker.heartbeat import Heartbeat
from llava.serve.worker.worker import DEFAULT_MAX_QUEUE, Worker


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every worker, the original's spellings included.

    `--worker` and `--controller`, which the original took as abbreviations, are names here: another flag that begins
    like them cannot make them ambiguous.
    """
    where = parser.add_argument_group("where it is")
    where.add_argument("--host", default="localhost", help="address to listen on (default: localhost)")
    where.add_argument(
        "--port", type=flags.port, default=21002, help="port to listen on (default: 21002; 0: any free one)"
    )
    where.add_argument(
        "--worker-address",
        "--worker",
        metavar="URL",
        help="where the controller reaches this worker (default: http://localhost:PORT)",
    )
    where.add_argument(
        "--controller-address",
        "--controller",
        metavar="URL",
        default="http://localhost:21001",
        help="the controller to register with (default: http://localhost:21001)",
    )
    where.add_argument("--no-register", action="store_true", help="work without a controller")

    load = parser.add_argument_group("load")
    load.add_argument(
        "--limit-model-concurrency",
        type=flags.positive,
        metavar="N",
        help="answers written at once (default: as many as the engine takes)",
    )
    load.add_argument(
        "--max-queue",
        type=flags.not_negative,
        default=DEFAULT_MAX_QUEUE,
        metavar="N",
        help=f"answers that may wait; more are refused with 503 (default: {DEFAULT_MAX_QUEUE})",
    )
    load.add_argument(
        "--stream-interval",
        type=flags.positive,
        default=2,
        metavar="TOKENS",
        help="tokens a piece of stream (default: 2)",
    )
    flags.add_limit_arguments(load)

    safety = parser.add_argument_group("safety")
    safety.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="keys that clients must show, one a line (default: LLAVA_API_KEY, if set)",
    )
    safety.add_argument(
        "--cluster-token-file",
        metavar="FILE",
        help="the token shared with the controller (default: LLAVA_CLUSTER_TOKEN, if set)",
    )
    safety.add_argument("--insecure", action="store_true", help="answer everybody who can reach --host, without keys")
    safety.add_argument(
        "--allow-image-host",
        action="append",
        default=[],
        metavar="HOST",
        help="fetch images by http(s) address from this host; repeat for several (default: from none)",
    )


def run_worker(args: argparse.Namespace, backend: Backend, *, title: str) -> int:
    """Serves `backend` until a signal; registers it once it has answered a first question.

    Raises:
        LlavaError: the settings, the port or the backend do not allow it.
    """
    keys = ApiKeys.from_settings(args.api_key_file)
    token = ClusterToken.from_settings(args.cluster_token_file)
    if args.port == 0 and not args.worker_address and not args.no_register:
        raise InvalidRequest("--port 0 takes any free port: say with --worker-address where the controller finds it.")
    app = create_worker_app(
        backend,
        title=title,
        keys=keys,
        cluster_token=token,
        local_only=for_this_machine_only(args.host, keys, insecure=args.insecure),
        limits=Limits(requests_per_minute=args.requests_per_minute),
        max_queue=args.max_queue,
        stream_interval=args.stream_interval,
    )
    worker: Worker = app.state.worker
    lifecycle: Lifecycle = app.state.lifecycle
    heartbeat = None
    if not args.no_register:
        address = args.worker_address or f"http://localhost:{args.port}"
        heartbeat = Heartbeat(args.controller_address, address, worker.status, token=token)
        worker.on_load_change = heartbeat.soon
        lifecycle.on_drain(heartbeat.stop)

    tasks: list[asyncio.Future[None]] = []  # asyncio itself holds no task for long

    async def ready() -> None:
        await worker.start()
        # Libraries and model are here to stay: a full collection that looks at them again holds up all streams.
        gc.collect()
        gc.freeze()
        tasks.append(asyncio.ensure_future(worker.watch(lifecycle)))
        if heartbeat is not None:
            await heartbeat.start()

    code = serve(app, args.host, args.port, ready=ready, drain_timeout_s=args.drain_timeout)
    return code if backend.healthy else FAILED


def image_hosts(args: argparse.Namespace) -> frozenset[str]:
    """The hosts of --allow-image-host."""
    return frozenset(host.lower() for host in args.allow_image_host)
