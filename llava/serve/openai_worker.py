"""Registers any OpenAI-compatible engine (vLLM, SGLang, LMDeploy, llama.cpp, another of ours) as a worker.

The controller and the web page use it like a worker of their own. Messages and images are sent on, not a flattened
prompt, so that the engine's own template decides; who leaves cancels there too.

    python -m llava.serve.openai_worker --controller http://localhost:10000 --port 40001
        --worker http://localhost:40001 --backend-url http://localhost:8000/v1 --backend-model llava-13b
"""

from __future__ import annotations

import argparse
import os
import sys

from llava.command_line import run
from llava.errors import InvalidRequest
from llava.serve.service import flags
from llava.serve.worker.command import add_worker_arguments, image_hosts, run_worker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--backend-url", required=True, metavar="URL", help="the engine's API, such as http://localhost:8000/v1"
    )
    engine.add_argument("--backend-model", required=True, metavar="NAME", help="what the engine calls its model")
    engine.add_argument(
        "--backend-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the engine's key (default: no key)",
    )
    engine.add_argument(
        "--backend-wait",
        type=flags.seconds,
        default=600.0,
        metavar="SECONDS",
        help="how long to wait for an engine that is still loading (default: 600)",
    )
    engine.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end every answer here, as at the ### of a v0 checkpoint; repeat for several (default: the engine knows)",
    )
    engine.add_argument(
        "--stop-here",
        action="store_true",
        help="match stop texts in the worker, for an engine that does not take them (such as `transformers serve`)",
    )
    engine.add_argument("--model-name", metavar="NAME", help="name to serve it under (default: --backend-model)")
    add_worker_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.serve.worker.images import ImageReader
    from llava.serve.worker.openai_backend import OpenAiBackend
    from llava.serve.worker.upstream import Upstream

    key = None
    if args.backend_key_env:
        key = os.environ.get(args.backend_key_env, "").strip()
        if not key:
            raise InvalidRequest(f"--backend-key-env {args.backend_key_env}: the environment has no such variable.")
    backend = OpenAiBackend(
        name=args.model_name or args.backend_model,
        upstream=Upstream.connect(args.backend_url, args.backend_model, key),
        limit=args.limit_model_concurrency or OpenAiBackend.limit,
        images=ImageReader(allowed_hosts=image_hosts(args)),
        wait_s=args.backend_wait,
        stop=tuple(args.stop),
        stops_here=args.stop_here,
    )
    return run_worker(args, backend, title="LLaVA worker for an OpenAI-compatible engine")


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
