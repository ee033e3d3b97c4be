"""Registers a worker with a controller by hand; the controller asks the worker which models it serves.

Use this for workers that do not register themselves: those started with --no-register, or reached at another address.
If the controller requires a cluster token, it is read from LLAVA_CLUSTER_TOKEN or --cluster-token-file.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import DONE, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--controller-address", "--controller", required=True, metavar="URL", help="Address of the controller."
    )
    parser.add_argument("--worker-name", "--worker", required=True, metavar="URL", help="Address of the worker.")
    parser.add_argument(
        "--check-heart-beat",
        action="store_true",
        help="Remove the worker if it sends no heartbeats (default: the controller asks for its status).",
    )
    parser.add_argument(
        "--cluster-token-file", metavar="FILE", help="File with the cluster token (default: LLAVA_CLUSTER_TOKEN)."
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
