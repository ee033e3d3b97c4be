"""Asks for the next answer and shows it while it is being written, until it ends, fails or is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from llava.errors import LlavaError
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import Chat, ChatSource, Draft, Turn
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.terminal.clean_text import well_formed
from llava.serve.terminal.interrupts import Interrupted, interruptible
from llava.serve.terminal.view import GrowingAnswer
from llava.text_generation.answer_events import Piece

_PAUSE_S: Final = 0.1
"""Time between two drawings of a growing answer."""


@dataclass(frozen=True, slots=True)
class AnswerResult:
    """An answer, complete or not."""

    turn: Turn
    error: LlavaError | None = None
    """Why it failed."""
    stopped: bool = False
    """Whether Ctrl-C stopped it."""


async def write_answer(
    source: ChatSource, chat: Chat, model: str, settings: AnswerSettings, on_text: Callable[[str], None]
) -> AnswerResult:
    """Answers the last question of `chat`. Ctrl-C and errors also end the work behind the answer.

    Args:
        on_text: is called with the whole text so far, whenever it grows.
    """
    draft = Draft(model)

    async def read() -> None:
        async with aclosing(source.answer(chat, model, settings)) as events:
            async for event in events:
                draft.add(replace(event, text=well_formed(event.text)) if isinstance(event, Piece) else event)
                on_text(draft.text)

    try:
        await interruptible(read())
    except Interrupted:
        return AnswerResult(draft.turn(), stopped=True)
    except LlavaError as error:
        return AnswerResult(draft.turn(str(error)), error)
    return AnswerResult(draft.turn())


async def show_answer(
    source: ChatSource, chat: Chat, model: str, settings: AnswerSettings, growing: GrowingAnswer
) -> AnswerResult:
    """Does what `write_answer` does, and draws the answer on a terminal as it grows."""

    async def draw() -> None:
        while True:
            growing.draw()
            await asyncio.sleep(_PAUSE_S)

    with growing:
        drawing = asyncio.ensure_future(draw())
        try:
            return await write_answer(source, chat, model, settings, growing.grow)
        finally:
            await cancel_and_wait(drawing)
