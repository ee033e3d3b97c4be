"""Streams answers: yields the conversation again and again while its answer grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from llava.errors import LlavaError
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import Chat, ChatSource, Draft
from llava.text_generation.answer_events import Answer

_PAUSE_S: Final = 0.06
"""Pause between two updates of a growing answer; the browser draws the whole conversation each time."""

Growing = AsyncGenerator[Chat, None]


async def growing(source: ChatSource, chat: Chat, model: str, settings: AnswerSettings) -> Growing:
    """Yields the conversation with its growing answer; the last one has the answer's statistics or its error.

    Closing the generator ends the work behind it. A `LlavaError` becomes the error of the answer and is not raised.
    """
    draft, shown_s = Draft(model), 0.0
    try:
        async with aclosing(source.answer(chat, model, settings)) as events:
            async for event in events:
                draft.add(event)
                if not isinstance(event, Answer) and time.monotonic() - shown_s >= _PAUSE_S:
                    shown_s = time.monotonic()
                    yield chat.answered(draft.turn())
    except LlavaError as error:
        yield chat.answered(draft.turn(error=str(error)))
        return
    yield chat.answered(draft.turn())


async def growing_together(all_growing: Sequence[Growing]) -> AsyncGenerator[list[Chat | None], None]:
    """Yields the newest conversation of each generator; None as long as one has yielded nothing."""
    newest: list[Chat | None] = [None] * len(all_growing)
    changed = asyncio.Event()

    async def follow(index: int) -> None:
        async with aclosing(all_growing[index]) as chats:
            async for chat in chats:
                newest[index] = chat
                changed.set()

    following = [asyncio.ensure_future(follow(index)) for index in range(len(all_growing))]
    everything = asyncio.gather(*following)
    everything.add_done_callback(lambda _: changed.set())
    try:
        while not everything.done():
            await changed.wait()
            changed.clear()
            yield list(newest)
            await asyncio.sleep(_PAUSE_S)
        yield list(newest)
        await everything
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
