"""Starts everything on this machine: a controller, a model worker and the web page. They also end together.

    llava web
    llava web --model-path ./LLaVA-7B-v0 --port 8080

Without --model-path, the worker serves the embedded model `tiny`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack

from llava.command_line import run
from llava.serve.gradio_web_server import (
    WebServerSettings,
    add_listen_arguments,
    add_page_arguments,
    private_uploads,
    serve_page,
)
from llava.serve.service.child_service import ChildService


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.serve.model_worker import add_model_arguments

    page = parser.add_argument_group("page")
    add_listen_arguments(page)
    add_page_arguments(page)
    add_model_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.serve.model_worker import model_flags
    from llava.serve.service.server import free_port

    controller_port, worker_port = free_port(), free_port()
    controller = f"http://localhost:{controller_port}"
    settings = WebServerSettings.from_args(args, controller=controller)
    return serve_all(
        settings,
        controller_arguments=["--port", str(controller_port)],
        worker_arguments=["--controller", controller, "--port", str(worker_port), *model_flags(args)],
    )


def serve_all(settings: WebServerSettings, *, controller_arguments: list[str], worker_arguments: list[str]) -> int:
    """Serves the page beside a controller and a worker in processes of their own; returns the exit code.

    Raises:
        ServiceFailed: the controller or the worker could not be started.
    """
    with ExitStack() as stack:
        stack.enter_context(private_uploads())
        services = [
            stack.enter_context(ChildService("controller", "llava.serve.controller", controller_arguments)),
            stack.enter_context(ChildService("worker", "llava.serve.model_worker", worker_arguments)),
        ]

        async def ready() -> None:
            for service in services:
                await asyncio.to_thread(service.wait_until_running)

        return serve_page(settings, ready=ready)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
