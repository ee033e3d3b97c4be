"""Serves one model: loads it, answers a first question with it, then registers with the controller.

Speaks the original's protocol (/worker_generate_stream) and OpenAI's (/v1/chat/completions). Without --model-path the
small embedded model answers. It is ready when it says "Uvicorn running on".

    python -m llava.serve.model_worker --controller http://localhost:10000 --port 40000
        --worker http://localhost:40000 --model-path ./LLaVA-13B-v0
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.model.loading import arguments
from llava.serve.worker.command import add_worker_arguments, image_hosts, run_worker
from llava.serve.worker.model_loading import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_worker_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is loaded."""
    model = parser.add_argument_group("model")
    arguments.add_model_path(model, "--model-path")
    model.add_argument("--model-name", metavar="NAME", help="name to serve it under (default: the path's last part)")
    arguments.add_arguments(model, split=True, flash_attention=True)
    # Accepted and unused: whether a model sees, and how it wants images cut, its own config says.
    model.add_argument("--multi-modal", action="store_true", help=argparse.SUPPRESS)
    model.add_argument("--keep-aspect-ratio", action="store_true", help=argparse.SUPPRESS)


def model_flags(args: argparse.Namespace) -> list[str]:
    """What `add_model_arguments` read, as it would be typed, for a worker that another command starts."""
    which = (("--model-path", args.model_path), ("--model-name", args.model_name))
    flags = [[flag, value] for flag, value in which if value is not None]
    flags += arguments.ModelSettings.from_args(args).as_flags()
    return [word for flag in flags for word in flag]


def main(args: argparse.Namespace) -> int:
    from llava.serve.worker.engine_backend import EngineBackend
    from llava.serve.worker.images import ImageReader

    settings = arguments.ModelSettings.from_args(args)
    folder, name, notice = arguments.find_model(settings.model_path)
    arguments.announce(name, notice)
    backend = EngineBackend(
        name=args.model_name or name,
        load=lambda: load_model(settings, folder),
        images=ImageReader(allowed_hosts=image_hosts(args)),
        asked_limit=args.limit_model_concurrency,
    )
    return run_worker(args, backend, title="LLaVA model worker")


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
