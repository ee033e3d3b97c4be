"""Holds the flags that the commands of all workers share; importing it loads no server."""

from __future__ import annotations

import argparse

from llava.serve.service import flags
from llava.serve.worker.permits import DEFAULT_MAX_QUEUE


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every worker, including the original's spellings.

    The original accepted `--worker` and `--controller` as abbreviations. Here they are names, so that no new flag can
    make them ambiguous.
    """
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="localhost", help="Name or address to listen on (default: localhost).")
    address.add_argument(
        "--port",
        type=flags.port,
        default=21002,
        help="Port to listen on; 0 chooses a free one (default: 21002).",
    )
    address.add_argument(
        "--worker-address",
        "--worker",
        metavar="URL",
        help="URL at which the controller reaches this worker (default: http://localhost:PORT).",
    )
    address.add_argument(
        "--controller-address",
        "--controller",
        metavar="URL",
        default="http://localhost:21001",
        help="URL of the controller to register with (default: http://localhost:21001).",
    )
    address.add_argument("--no-register", action="store_true", help="Run without a controller.")
    _add_load_arguments(parser.add_argument_group("load"))
    _add_safety_arguments(parser.add_argument_group("safety"))


def _add_load_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--limit-model-concurrency",
        type=flags.positive,
        metavar="N",
        help="Maximum number of answers written at once (default: the engine's limit).",
    )
    group.add_argument(
        "--max-queue",
        type=flags.not_negative,
        default=DEFAULT_MAX_QUEUE,
        metavar="N",
        help=f"Maximum number of waiting answers; further requests get status 503 (default: {DEFAULT_MAX_QUEUE}).",
    )
    group.add_argument(
        "--stream-interval",
        type=flags.positive,
        default=2,
        metavar="TOKENS",
        help="Minimum number of tokens in each piece of a stream (default: 2).",
    )
    flags.add_limit_arguments(group)


def _add_safety_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="File with the keys that clients must send, one per line (default: LLAVA_API_KEY; without either, "
        "clients need no key).",
    )
    group.add_argument(
        "--cluster-token-file",
        metavar="FILE",
        help="File with the token shared with the controller (default: LLAVA_CLUSTER_TOKEN).",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="Let other machines send requests without keys (default: only this machine and the controller).",
    )
    group.add_argument(
        "--allow-image-host",
        action="append",
        default=[],
        metavar="HOST",
        help="Host from which images may be fetched by http(s) URL; repeat for several (default: none).",
    )
