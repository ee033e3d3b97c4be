"""Registers a worker with a controller by hand; the controller asks the worker what it serves.

For workers that do not register themselves: ones started with --no-register, or behind another address. The cluster
token, where the controller has one, is read from LLAVA_CLUSTER_TOKEN or --cluster-token-file.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import DONE, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--controller-address", "--controller", required=True, metavar="URL", help="of the controller")
    parser.add_argument("--worker-name", "--worker", required=True, metavar="URL", help="the worker's address")
    parser.add_argument(
        "--check-heart-beat",
        action="store_true",
        help="forget the worker when it sends no heartbeats (default: ask it how it is, now and then)",
    )
    parser.add_argument(
        "--cluster-token-file", metavar="FILE", help="holds the cluster token (default: LLAVA_CLUSTER_TOKEN)"
    )


def main(args: argparse.Namespace) -> int:
    from llava.serve.client.http_client import Client
    from llava.serve.service.security import ClusterToken

    token = ClusterToken.from_settings(args.cluster_token_file)
    with Client(args.controller_address, headers=token.headers() if token else {}) as controller:
        body = {"worker_name": args.worker_name, "check_heart_beat": args.check_heart_beat, "worker_status": None}
        controller.post("/register_worker", body)
    print(f"registered {args.worker_name}")
    return DONE


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
