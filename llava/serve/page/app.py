"""Builds the page as an ASGI app, to be run by `llava.serve.service.server.serve`."""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from llava.serve.client.chat_server import ChatServer
from llava.serve.page.accounts import Accounts
from llava.serve.page.context import PageContext
from llava.serve.page.layout import build, look
from llava.serve.page.log import ConversationLog
from llava.serve.page.models import ServedModels
from llava.serve.page.moderation import Moderator
from llava.serve.page.settings import MAX_UPLOAD_BYTES, PageSettings
from llava.serve.service.lifecycle import Lifecycle


def create_page_app(settings: PageSettings, *, accounts: Accounts | None = None) -> FastAPI:
    """Returns the app.

    Raises:
        InvalidRequest: the controller's address is not a URL, the log folder cannot be written, or the key for
            moderation is missing.
    """
    source = ChatServer(settings.controller)
    log = None
    if settings.log_dir is not None:
        log = ConversationLog(settings.log_dir, with_addresses=settings.log_addresses)
    moderator = Moderator() if settings.moderate else None
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.lifecycle = Lifecycle()

    @app.get("/health/live")
    async def health_live() -> dict[str, str]:
        return {"status": "ok"}

    return gr.mount_gradio_app(
        app,
        build(PageContext(settings, source, ServedModels(source), log, moderator)),
        path="/",
        auth=accounts.check if accounts else None,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=[],
        # Users see neither the calls of others, nor the machine, nor the inside of an error.
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        **look(),
    )
