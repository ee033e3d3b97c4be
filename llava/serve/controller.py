"""Runs the controller: workers register with it, and it forwards each request to a worker that serves the model.

Without a cluster token, the controller works only on its own machine. To use workers on other machines, give controller
and workers the same token, in the environment variable LLAVA_CLUSTER_TOKEN or in a file, and list where workers may be:

    LLAVA_CLUSTER_TOKEN=... python -m llava.serve.controller --host 0.0.0.0 --port 10000 --allow-worker 10.1.0.0/16
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.constants import CONTROLLER_HEART_BEAT_EXPIRATION
from llava.serve.service import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="localhost", help="Name or address to listen on (default: localhost).")
    parser.add_argument(
        "--port", type=flags.port, default=21001, help="Port to listen on; 0 chooses a free one (default: 21001)."
    )
    parser.add_argument(
        "--dispatch-method",
        choices=("lottery", "shortest_queue"),
        default="shortest_queue",
        help="How a worker is chosen: lottery is random, weighted by speed; shortest_queue goes by load "
        "(default: shortest_queue).",
    )
    _add_access_arguments(parser)
    _add_timeout_arguments(parser)
    flags.add_limit_arguments(parser)


def _add_access_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster-token-file",
        metavar="FILE",
        help="File with the tokens that workers may register with, one per line (default: LLAVA_CLUSTER_TOKEN).",
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="File with the keys that clients must send, one per line (default: LLAVA_API_KEY; without either, "
        "clients need no key).",
    )
    parser.add_argument(
        "--allow-worker",
        action="append",
        default=[],
        metavar="HOST_OR_CIDR",
        help="Host or network where workers may run in addition to this machine; repeat for several (default: none).",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="Let other machines send requests without keys and register workers without a token "
        "(default: only this machine).",
    )


def _add_timeout_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--first-token-timeout",
        type=flags.positive_seconds,
        default=300.0,
        metavar="SECONDS",
        help="Maximum time until a worker's first byte, in seconds (default: 300).",
    )
    parser.add_argument(
        "--idle-timeout",
        type=flags.positive_seconds,
        default=60.0,
        metavar="SECONDS",
        help="Maximum time between two pieces of an answer, in seconds (default: 60).",
    )
    parser.add_argument(
        "--heart-beat-expiration",
        type=flags.positive_seconds,
        default=float(CONTROLLER_HEART_BEAT_EXPIRATION),
        metavar="SECONDS",
        help="Seconds without a heartbeat after which a worker is removed "
        f"(default: {CONTROLLER_HEART_BEAT_EXPIRATION}).",
    )


def main(args: argparse.Namespace) -> int:
    from llava.serve.cluster.app import create_controller_app
    from llava.serve.cluster.settings import ControllerSettings
    from llava.serve.service.server import serve

    settings = ControllerSettings.from_args(args)
    service = settings.service
    return serve(create_controller_app(settings), service.host, service.port, drain_timeout_s=service.drain_timeout_s)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
