"""Starts the whole of LLaVA on this machine: a controller, a model worker and the web page, and ends them together.

    llava web
    llava web --model-path ./LLaVA-7B-v0 --port 8080

Without --model-path it serves the small model that comes with the package.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack

from llava.command_line import run
from llava.serve.gradio_web_server import add_page_arguments, page_app, private_uploads
from llava.serve.service import flags
from llava.serve.service.children import Child


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from llava.serve.model_worker import add_model_arguments

    page = parser.add_argument_group("page")
    page.add_argument("--host", default="localhost", help="name or address the page listens on (default: localhost)")
    page.add_argument("--port", type=flags.port, default=7860, help="of the page; 0 takes a free one (default: 7860)")
    add_page_arguments(page)
    add_model_arguments(parser)


def main(args: argparse.Namespace) -> int:
    from llava.serve.model_worker import model_flags
    from llava.serve.service.server import free_port, serve

    controller_port, worker_port = free_port(), free_port()
    args.controller_url = f"http://localhost:{controller_port}"
    with ExitStack() as stack:
        stack.enter_context(private_uploads())
        services = [
            Child("controller", "llava.serve.controller", ["--port", str(controller_port)]),
            Child(
                "worker",
                "llava.serve.model_worker",
                ["--controller", args.controller_url, "--port", str(worker_port), *model_flags(args)],
            ),
        ]
        for service in services:
            stack.enter_context(service)

        async def ready() -> None:
            for service in services:
                await asyncio.to_thread(service.wait_until_running)

        return serve(page_app(args), args.host, args.port, ready=ready, drain_timeout_s=0.0)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
