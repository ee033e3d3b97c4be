"""Asks for the next answer and shows it while it is written, until its end, an error or Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from llava.errors import LlavaError
from llava.serve.client.conversation import AnswerSettings, Chat, ChatSource, Draft, Turn
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.terminal.clean_text import well_formed
from llava.serve.terminal.interrupts import Interrupted, interruptible
from llava.serve.terminal.view import GrowingAnswer
from llava.serve.worker.backend import TextDelta

_PAUSE_S: Final = 0.1
"""Between two drawings."""


@dataclass(frozen=True, slots=True)
class Result:
    """An answer, whole or not."""

    turn: Turn
    error: LlavaError | None = None
    stopped: bool = False
    """By Ctrl-C."""


async def write_answer(
    source: ChatSource, chat: Chat, model: str, settings: AnswerSettings, on_text: Callable[[str], None]
) -> Result:
    """Answers the last question of `chat`. What ends the answer early also ends the work behind it.

    Args:
        on_text: is given the whole text again and again, as it grows.
    """
    draft = Draft(model)

    async def read() -> None:
        async with aclosing(source.answer(chat, model, settings)) as events:
            async for event in events:
                draft.saw(TextDelta(well_formed(event.text), 0) if isinstance(event, TextDelta) else event)
                on_text(draft.text)

    try:
        await interruptible(read())
    except Interrupted:
        return Result(draft.turn(), stopped=True)
    except LlavaError as error:
        return Result(draft.turn(str(error)), error)
    return Result(draft.turn())


async def show_answer(
    source: ChatSource, chat: Chat, model: str, settings: AnswerSettings, growing: GrowingAnswer
) -> Result:
    """`write_answer`, drawn on a terminal as it grows."""

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
