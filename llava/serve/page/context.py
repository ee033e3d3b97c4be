"""Holds the services behind the page that all its tabs use."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from llava.errors import InvalidRequest, NoWorker
from llava.serve.client.conversation import Chat, ChatSource
from llava.serve.client.images import ChatImage
from llava.serve.page.busy_tabs import BusyTabs
from llava.serve.page.closed_tabs import ClosedTabs
from llava.serve.page.log import ConversationLog, LogFailed, Sender
from llava.serve.page.models import ServedModels
from llava.serve.page.moderation import Moderator
from llava.serve.page.settings import PageSettings
from llava.serve.page.uploads import read_message

logger = logging.getLogger("llava.serve.page")


@dataclass(frozen=True)
class PageContext:
    """The services behind the page."""

    settings: PageSettings
    source: ChatSource
    models: ServedModels
    log: ConversationLog | None = None
    """None if nothing is logged."""
    moderator: Moderator | None = None
    """None if messages are not moderated."""
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Identifies this process; a page that was opened before a restart has another id."""
    closed_tabs: ClosedTabs = field(default_factory=ClosedTabs)
    busy_tabs: BusyTabs = field(default_factory=BusyTabs)

    async def wait_until_idle(self, tab: str | None) -> None:
        """Returns when no answer is being written in the tab.

        Raises:
            InvalidRequest: the answer does not end, or the server has discarded the tab's conversation.
        """
        self.closed_tabs.check(tab)
        await self.busy_tabs.wait_until_idle(tab)

    async def read(self, message: dict[str, Any]) -> tuple[str, tuple[ChatImage, ...]]:
        """Returns text and images of a message from the message box.

        Raises:
            LlavaError: the text is too long, moderation flags it, or an image cannot be read.
        """
        text, images = await read_message(message)
        if self.moderator is not None:
            await self.moderator.check(text)
        return text, images

    def check(self, run_id: str, model: str | None) -> str:
        """Returns the model to ask.

        Raises:
            NoWorker: no model is chosen, because none is served.
            InvalidRequest: the page was opened before this process started, which does not know its conversation.
        """
        if run_id != self.run_id:
            raise InvalidRequest("the server was restarted. Reload the page; your browser has kept the conversation.")
        if not model:
            raise NoWorker("no model is being served yet. Start a worker; its model then appears in the list above.")
        return model

    async def log_answer(self, chat: Chat, model: str, sender: Sender, start: float, finish: float) -> None:
        """Writes an answer to the log, if there is one; a full disk does not end the conversation."""
        if self.log is None:
            return
        try:
            await asyncio.to_thread(self.log.chat, chat, model, sender, start=start, finish=finish)
        except LogFailed as error:
            logger.error("%s", error)


def sender_of(request: gr.Request, conversation_id: str) -> Sender:
    """Returns who sent a request, for the log."""
    return Sender(conversation_id, request.client.host if request.client else "")
