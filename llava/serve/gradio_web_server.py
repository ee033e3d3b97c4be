"""Runs the web page: chat with images, an arena of two models, votes. It asks a controller over HTTP.

    python -m llava.serve.gradio_web_server --controller http://localhost:10000

The key for a controller that wants one is read from LLAVA_API_KEY. Nothing is stored unless --log-dir says where.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llava.command_line import run
from llava.errors import InvalidRequest, LlavaError
from llava.serve.service import flags

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="localhost", help="name or address to listen on (default: localhost)")
    parser.add_argument("--port", type=flags.port, default=7860, help="0 takes a free one (default: 7860)")
    parser.add_argument(
        "--controller-url",
        "--controller",
        default="http://localhost:21001",
        metavar="URL",
        help="of the controller, or of any OpenAI-compatible server (default: http://localhost:21001)",
    )
    add_page_arguments(parser)


def add_page_arguments(parser: argparse._ActionsContainer) -> None:
    """Flags that `llava web` shares."""
    parser.add_argument(
        "--concurrency-count",
        type=flags.positive,
        default=8,
        metavar="N",
        help="answers written at once; more wait in line (default: 8)",
    )
    parser.add_argument(
        "--model-list-mode",
        choices=("once", "reload"),
        default="once",
        help="once: one list of models for all pages; reload: each asks anew when opened (default: once)",
    )
    parser.add_argument("--share", action="store_true", help="also open a public address through gradio's servers")
    parser.add_argument(
        "--moderate", action="store_true", help="ask OpenAI's moderation about each message (needs OPENAI_API_KEY)"
    )
    parser.add_argument("--embed", action="store_true", help="without title and terms, to stand inside of another page")
    parser.add_argument(
        "--auth",
        action="append",
        default=[],
        metavar="USER:PASSWORD",
        help="who may come in; repeat for several (default: everybody who reaches the page)",
    )
    parser.add_argument("--auth-file", metavar="FILE", help="the same, one USER:PASSWORD a line")
    parser.add_argument(
        "--log-dir",
        type=Path,
        metavar="FOLDER",
        help="where conversations, images and votes are stored (default: nothing is stored)",
    )
    parser.add_argument(
        "--log-addresses", action="store_true", help="store the clients' addresses, too (default: left empty)"
    )


def main(args: argparse.Namespace) -> int:
    with private_uploads():
        from llava.serve.service.server import serve

        if args.share and not args.port:
            raise InvalidRequest("--share needs to know the port: give one with --port.")
        ready = _share(args.port) if args.share else None
        return serve(page_app(args), args.host, args.port, ready=ready, drain_timeout_s=0.0)


def page_app(args: argparse.Namespace) -> FastAPI:
    """The page with the settings of the command line; only within `private_uploads`.

    Raises:
        InvalidRequest: one of the settings cannot be used.
    """
    from llava.serve.page.accounts import Accounts
    from llava.serve.page.settings import PageSettings

    settings = PageSettings(
        controller=args.controller_url,
        model_list_mode=args.model_list_mode,
        concurrency=args.concurrency_count,
        embed=args.embed,
        log_dir=args.log_dir,
        log_addresses=args.log_addresses,
        moderate=args.moderate,
    )
    accounts = Accounts.from_settings(args.auth, args.auth_file)
    from llava.serve.page.app import create_page_app  # gradio's import takes seconds, what is above none

    return create_page_app(settings, accounts=accounts)


@contextlib.contextmanager
def private_uploads() -> Iterator[None]:
    """A folder of this process alone for what browsers upload, removed at the end.

    gradio reads the settings when it is imported, which has to happen inside.
    """
    with tempfile.TemporaryDirectory(prefix="llava-page-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Else it tabulates the last 10,000 events after each event, for a monitoring page that there is not.
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
        os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
        yield


def _share(port: int) -> Callable[[], Awaitable[None]]:
    """Opens the public address once the page runs."""

    async def share() -> None:
        import asyncio
        import secrets

        from gradio.networking import setup_tunnel

        try:
            address = await asyncio.to_thread(setup_tunnel, "127.0.0.1", port, secrets.token_urlsafe(32), None, None)
        except Exception as error:  # gradio raises what its downloads and its tunnel's process raise, of many kinds
            raise LlavaError(f"--share: gradio's servers gave no public address ({error}). Leave it out.") from error
        logging.getLogger("llava.serve.page").info("Public address: %s", address)

    return share


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
