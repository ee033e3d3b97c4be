"""The page as an ASGI app, to be run by `llava.serve.service.server.serve`."""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from llava.serve.client.chat_server import ChatServer
from llava.serve.page.accounts import Accounts
from llava.serve.page.context import Context
from llava.serve.page.layout import build, look
from llava.serve.page.log import ConversationLog
from llava.serve.page.models import ModelList
from llava.serve.page.moderation import Moderator
from llava.serve.page.settings import MAX_UPLOAD_BYTES, PageSettings
from llava.serve.service.lifecycle import Lifecycle


def create_page_app(settings: PageSettings, *, accounts: Accounts | None = None) -> FastAPI:
    """
    Raises:
        InvalidRequest: an address that is none, a log folder that cannot be written, moderation without a key.
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
        build(Context(settings, source, ModelList(source), log, moderator)),
        path="/",
        auth=accounts.check if accounts else None,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=[],
        # Neither other users' calls, nor the machine, nor the inside of an error is anybody's business.
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        **look(),
    )
