"""What all parts of the page work with."""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from llava.errors import InvalidRequest, LlavaError, NoWorker
from llava.serve.client.conversation import AnswerSettings, Chat, ChatSource
from llava.serve.client.images import SHAPES, ChatImage, read_image
from llava.serve.client.wording import sentence
from llava.serve.page.closed_tabs import ClosedTabs
from llava.serve.page.log import ConversationLog, LogFailed, Sender
from llava.serve.page.models import ModelList
from llava.serve.page.moderation import Moderator
from llava.serve.page.settings import PageSettings

logger = logging.getLogger("llava.serve.page")

_PATIENCE_S: Final = 30.0
MAX_TEXT_CHARACTERS: Final = 100_000
"""Of one message; the model's own limit is far lower and says its numbers."""


@dataclass(frozen=True)
class Context:
    """The services behind the page."""

    settings: PageSettings
    source: ChatSource
    models: ModelList
    log: ConversationLog | None = None
    moderator: Moderator | None = None
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Of this process; a page that was opened before a restart shows another one."""
    closed_tabs: ClosedTabs = field(default_factory=ClosedTabs)
    _writing: set[str | None] = field(default_factory=set)
    """Tabs, by gradio's session."""

    @contextlib.contextmanager
    def writing(self, tab: str | None) -> Iterator[None]:
        """Holds a tab while an answer is written in it."""
        self._writing.add(tab)
        try:
            yield
        finally:
            self._writing.discard(tab)

    async def wait_until_idle(self, tab: str | None) -> None:
        """Until no answer is written in this tab: who asks meanwhile is next, and one that was stopped takes a moment.

        Raises:
            InvalidRequest: it goes on and on, or the tab's conversation is not here any more.
        """
        self.closed_tabs.check(tab)
        until_s = time.monotonic() + _PATIENCE_S
        while tab in self._writing:
            if time.monotonic() > until_s:
                raise InvalidRequest("the answer before is still being written. Wait for its end, or stop it.")
            await asyncio.sleep(0.05)

    async def read(self, message: dict[str, Any]) -> tuple[str, tuple[ChatImage, ...]]:
        """Text and images of what was typed and uploaded.

        Raises:
            LlavaError: an image that cannot be read, too long a text, or a text that moderation refuses.
        """
        text = str(message.get("text") or "")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InvalidRequest(f"the message has {len(text)} characters, the limit is {MAX_TEXT_CHARACTERS}.")
        files = [str(file) for file in message.get("files") or ()]
        images = await asyncio.gather(*(asyncio.to_thread(_read, file) for file in files))
        if self.moderator is not None:
            await self.moderator.check(text)
        return text, tuple(images)

    def check(self, run_id: str, model: str | None) -> str:
        """The model to ask.

        Raises:
            NoWorker: none is chosen, because there is none.
            InvalidRequest: the page was opened before this process began, and knows nothing of its conversation.
        """
        if run_id != self.run_id:
            raise InvalidRequest(
                "the page's server was started anew. Reload the page; the conversation is kept in this browser."
            )
        if not model:
            raise NoWorker("no model is served yet. Start a worker; the list above shows it as soon as it is there.")
        return model

    async def keep(self, chat: Chat, model: str, sender: Sender, start: float, finish: float) -> None:
        """Writes an answer to the log, if there is one; a full disk stops no conversation."""
        if self.log is None:
            return
        try:
            await asyncio.to_thread(self.log.chat, chat, model, sender, start=start, finish=finish)
        except LogFailed as error:
            logger.error("%s", error)


@dataclass(frozen=True)
class Controls:
    """How answers are made, as the user set it."""

    shape: gr.Radio
    system: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider

    @classmethod
    def build(cls) -> Controls:
        shape = gr.Radio(
            list(SHAPES),
            value="Crop",
            label="Images that are not square",
            info="Crop: left to the model, most cut to the centre. Resize: squeezed. Pad: borders added.",
        )
        with gr.Accordion("Parameters", open=False):
            system = gr.Textbox(
                label="System prompt", info="Empty: the model's own.", lines=2, max_lines=8, max_length=20_000
            )
            temperature = gr.Slider(
                0, 1, value=0.2, step=0.1, label="Temperature", info="0: always the likeliest word."
            )
            top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="1: off.")
            max_tokens = gr.Slider(1, 2048, value=512, step=1, label="Max output tokens")
        return cls(shape, system, temperature, top_p, max_tokens)

    @property
    def components(self) -> list[Any]:
        return [self.shape, self.system, self.temperature, self.top_p, self.max_tokens]

    @staticmethod
    def read(values: Sequence[Any]) -> tuple[AnswerSettings, str]:
        """The settings and the system prompt, from the values of `components`."""
        shape, system, temperature, top_p, max_tokens = values
        return AnswerSettings(float(temperature), float(top_p), int(max_tokens), shape=shape), str(system or "").strip()


def model_list(label: str, name: str) -> gr.Dropdown:
    """A list of models that is filled later.

    Names that are not in it pass, too: what is served changes while a page is open, and the controller's own sentence
    about a model that is gone says more than gradio's.
    """
    return gr.Dropdown([], label=label, elem_id=name, allow_custom_value=True)


def sender_of(request: gr.Request, conversation_id: str) -> Sender:
    return Sender(conversation_id, request.client.host if request.client else "")


def said(error: LlavaError | str) -> Any:
    """An update of the line under the chat: what is wrong; nothing, and no line, for an empty text."""
    return _line("llava-error", "alert", str(error))


def noted(text: str) -> Any:
    """An update of the line under the chat: something good to know."""
    return _line("llava-note", "status", text)


def _line(kind: str, role: str, text: str) -> Any:
    text = html.escape(sentence(text))
    return gr.update(value=f'<div class="{kind}" role="{role}">{text}</div>' if text else "", visible=bool(text))


def _read(file: str) -> ChatImage:
    return read_image(file)
