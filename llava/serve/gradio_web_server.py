"""Runs the web page: chat with images, an arena of two models, and votes. It sends questions to a controller over HTTP.

    python -m llava.serve.gradio_web_server --controller http://localhost:10000

If the controller requires an API key, it is read from LLAVA_API_KEY. Nothing is stored unless --log-dir is given.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llava.command_line import run
from llava.errors import InvalidRequest, LlavaError
from llava.serve.page.accounts import Accounts
from llava.serve.page.settings import PageSettings
from llava.serve.service import flags


@dataclass(frozen=True, slots=True)
class WebServerSettings:
    """Everything that the web page's command line sets."""

    host: str
    """Name or address to listen on."""
    port: int
    """Port to listen on; 0 chooses a free one."""
    page: PageSettings
    """What the page shows and stores."""
    accounts: Accounts | None
    """The users who may open the page; None lets everybody in."""
    share: bool
    """Whether gradio's servers also offer the page under a public address."""

    @classmethod
    def from_args(cls, args: argparse.Namespace, *, controller: str) -> WebServerSettings:
        """Reads the command line, except for the address of the controller.

        Raises:
            InvalidRequest: the file of accounts is unreadable, or an account is not valid.
        """
        page = PageSettings(
            controller=controller,
            model_list_mode=args.model_list_mode,
            concurrency=args.concurrency_count,
            embed=args.embed,
            log_dir=args.log_dir,
            log_addresses=args.log_addresses,
            moderate=args.moderate,
        )
        accounts = Accounts.from_settings(args.auth, args.auth_file)
        return cls(host=args.host, port=args.port, page=page, accounts=accounts, share=args.share)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_listen_arguments(parser)
    parser.add_argument(
        "--controller-url",
        "--controller",
        default="http://localhost:21001",
        metavar="URL",
        help="Address of the controller, or of any OpenAI-compatible server (default: http://localhost:21001).",
    )
    add_page_arguments(parser)


def add_listen_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds --host and --port."""
    parser.add_argument("--host", default="localhost", help="Name or address to listen on (default: localhost).")
    parser.add_argument(
        "--port", type=flags.port, default=7860, help="Port to listen on; 0 chooses a free one (default: 7860)."
    )


def add_page_arguments(parser: argparse._ActionsContainer) -> None:
    """Adds the flags that `llava web` shares with this command."""
    parser.add_argument(
        "--concurrency-count",
        type=flags.positive,
        default=8,
        metavar="N",
        help="Maximum number of answers generated at once; more wait in a queue (default: 8).",
    )
    parser.add_argument(
        "--model-list-mode",
        choices=("once", "reload"),
        default="once",
        help="How the list of models is loaded: once for all visitors, or reload each time that somebody opens the "
        "page (default: once).",
    )
    parser.add_argument(
        "--share", action="store_true", help="Also publish the page under a public address of gradio's servers."
    )
    parser.add_argument(
        "--moderate",
        action="store_true",
        help="Check each message with OpenAI's moderation service first (requires OPENAI_API_KEY).",
    )
    parser.add_argument(
        "--embed", action="store_true", help="Omit title and terms, for a page embedded in another page."
    )
    parser.add_argument(
        "--auth",
        action="append",
        default=[],
        metavar="USER:PASSWORD",
        help="Account that may open the page; repeat for several (default: everybody may).",
    )
    parser.add_argument("--auth-file", metavar="FILE", help="File with accounts, one USER:PASSWORD per line.")
    parser.add_argument(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="Folder for conversations, images and votes (default: nothing is stored).",
    )
    parser.add_argument(
        "--log-addresses",
        action="store_true",
        help="Also store the addresses of clients in the log (default: they are left empty).",
    )


def main(args: argparse.Namespace) -> int:
    settings = WebServerSettings.from_args(args, controller=args.controller_url)
    if settings.share and not settings.port:
        raise InvalidRequest("--share needs a fixed port. Choose one with --port.")
    with private_uploads():
        return serve_page(settings)


def serve_page(settings: WebServerSettings, *, ready: Callable[[], Awaitable[None]] | None = None) -> int:
    """Serves the page until a signal arrives; call it only within `private_uploads`.

    Args:
        settings: from the command line.
        ready: must complete before the page counts as running.

    Returns:
        The exit code.

    Raises:
        LlavaError: a setting is not valid, the port is in use, or gradio gives no public address.
    """
    from llava.serve.page.app import create_page_app  # importing gradio takes seconds, so arguments are checked first
    from llava.serve.service.server import serve

    if ready is None and settings.share:
        ready = _share(settings.port)
    app = create_page_app(settings.page, accounts=settings.accounts)
    return serve(app, settings.host, settings.port, ready=ready, drain_timeout_s=0.0)


@contextlib.contextmanager
def private_uploads() -> Iterator[None]:
    """Gives gradio a folder for uploads that only this process uses and that is removed at the end.

    gradio reads these environment variables when it is imported, so it must be imported within this context.
    """
    with tempfile.TemporaryDirectory(prefix="llava-page-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Otherwise gradio tabulates the last 10,000 events after each event, for a monitoring page that is disabled.
        os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
        os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
        yield


def _share(port: int) -> Callable[[], Awaitable[None]]:
    """Returns a function that publishes the page once it runs."""

    async def share() -> None:
        import asyncio
        import secrets

        from gradio.networking import setup_tunnel

        try:
            address = await asyncio.to_thread(setup_tunnel, "127.0.0.1", port, secrets.token_urlsafe(32), None, None)
        except Exception as error:  # gradio raises many kinds of errors from its download and its tunnel process
            raise LlavaError(f"--share: gradio gave no public address ({error}). Start without --share.") from error
        logging.getLogger("llava.serve.page").info("Public address: %s", address)

    return share


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
