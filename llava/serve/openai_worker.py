"""Registers any OpenAI-compatible engine (vLLM, SGLang, LMDeploy, llama.cpp, or LLaVA itself) as a worker.

The controller and the web page use it like any other worker. It forwards messages and images instead of a flattened
prompt, so that the engine applies its own template. When a client leaves, its request is cancelled in the engine too.

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
from llava.serve.worker.arguments import add_worker_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--backend-url", required=True, metavar="URL", help="URL of the engine's API, such as http://localhost:8000/v1."
    )
    engine.add_argument("--backend-model", required=True, metavar="NAME", help="The engine's name for its model.")
    engine.add_argument(
        "--backend-key-env",
        metavar="VARIABLE",
        help="Environment variable that holds the engine's API key (default: no key).",
    )
    engine.add_argument(
        "--backend-wait",
        type=flags.seconds,
        default=600.0,
        metavar="SECONDS",
        help="Maximum time to wait for an engine that is still loading, in seconds (default: 600).",
    )
    engine.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="Text that ends every answer, such as ### for v0 checkpoints; repeat for several (default: the engine "
        "decides).",
    )
    engine.add_argument(
        "--stop-here",
        action="store_true",
        help="Find stop texts in the worker, for engines that do not support them (such as `transformers serve`).",
    )
    engine.add_argument(
        "--model-name", metavar="NAME", help="Name under which the model is served (default: --backend-model)."
    )
    add_worker_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.serve.worker.command import WorkerSettings, run_worker
    from llava.serve.worker.images import ImageReader
    from llava.serve.worker.openai_backend import OpenAiBackend
    from llava.serve.worker.upstream import Upstream

    settings = WorkerSettings.from_args(args)
    backend = OpenAiBackend(
        name=args.model_name or args.backend_model,
        upstream=Upstream.connect(args.backend_url, args.backend_model, _key(args.backend_key_env)),
        limit=settings.max_running or OpenAiBackend.limit,
        images=ImageReader(allowed_hosts=settings.image_hosts),
        wait_s=args.backend_wait,
        stop=tuple(args.stop),
        stops_here=args.stop_here,
    )
    return run_worker(settings, backend, title="LLaVA worker for an OpenAI-compatible engine")


def _key(variable: str | None) -> str | None:
    """Returns the key in an environment variable, or None if no variable is named."""
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InvalidRequest(f"--backend-key-env {variable}: this environment variable is not set.")
    return key


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
