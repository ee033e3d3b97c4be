"""Serves one model: loads it, answers a first question with it, then registers with the controller.

Supports the original's protocol (/worker_generate_stream) and OpenAI's (/v1/chat/completions). Without --model-path it
serves the embedded model `tiny`. It is ready when it prints "Uvicorn running on".

    python -m llava.serve.model_worker --controller http://localhost:10000 --port 40000
        --worker http://localhost:40000 --model-path ./LLaVA-13B-v0
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.model.loading import arguments
from llava.serve.worker.arguments import add_worker_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    add_worker_arguments(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose a model and say how it is loaded."""
    model = parser.add_argument_group("model")
    arguments.add_model_path(model, "--model-path")
    model.add_argument(
        "--model-name", metavar="NAME", help="Name under which the model is served (default: last part of the path)."
    )
    arguments.add_arguments(model, split=True, flash_attention=True)
    # Accepted but unused: the model's own config says whether it has a vision tower and how images are cropped.
    model.add_argument("--multi-modal", action="store_true", help=argparse.SUPPRESS)
    model.add_argument("--keep-aspect-ratio", action="store_true", help=argparse.SUPPRESS)


def model_flags(args: argparse.Namespace) -> list[str]:
    """Returns the flags of `add_model_arguments` as they were typed, for a worker that another command starts."""
    which = (("--model-path", args.model_path), ("--model-name", args.model_name))
    flags = [[flag, value] for flag, value in which if value is not None]
    flags += arguments.ModelSettings.from_args(args).as_flags()
    return [word for flag in flags for word in flag]


def main(args: argparse.Namespace) -> int:
    loading = arguments.ModelSettings.from_args(args)
    folder, name, notice = arguments.find_model(loading.model_path)
    arguments.announce(name, notice)

    from llava.serve.worker.command import WorkerSettings, run_worker
    from llava.serve.worker.engine_backend import EngineBackend
    from llava.serve.worker.images import ImageReader
    from llava.serve.worker.model_loading import load_model

    settings = WorkerSettings.from_args(args)
    backend = EngineBackend(
        name=args.model_name or name,
        load=lambda: load_model(loading, folder),
        images=ImageReader(allowed_hosts=settings.image_hosts),
        asked_limit=settings.max_running,
    )
    return run_worker(settings, backend, title="LLaVA model worker")


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
