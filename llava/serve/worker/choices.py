"""Runs the choices of one request under permits, and hands on what they write as one stream of events.

Every choice is read as fast as its model writes, into a buffer that its own answer bounds. So a client that reads
slowly holds no permit longer than its answer takes, and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from llava.errors import WorkerLost
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.worker.backend import Ask, ChatEvent, Finished, TextDelta
from llava.serve.worker.permits import Permits, Reservation

KEEP_ALIVE_S: Final = 15.0
"""Longest silence on a stream; proxies cut those that are silent for a minute."""

ChoiceEvent = tuple[int, ChatEvent]


class KeepAlive:
    """Stands in a stream where nothing was written for a while."""


Events = AsyncGenerator["ChoiceEvent | KeepAlive", None]


class Mailbox:
    """Events on their way from several writers to one reader. A text that follows a text of its own choice joins it."""

    def __init__(self) -> None:
        self._items: deque[ChoiceEvent | BaseException] = deque()
        self._arrival: asyncio.Future[None] | None = None

    def put(self, item: ChoiceEvent | BaseException) -> None:
        last = self._items[-1] if self._items else None
        joined = _join(last, item) if last is not None else None
        if joined is not None:
            self._items[-1] = joined
        else:
            self._items.append(item)
        self._wake()

    async def get(self, timeout_s: float) -> ChoiceEvent | BaseException | None:
        """The next event, or None after `timeout_s` without any."""
        if not self._items:
            loop = asyncio.get_running_loop()
            self._arrival = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            try:
                await self._arrival
            finally:
                timer.cancel()
                self._arrival = None
        return self._items.popleft() if self._items else None

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


def _join(last: ChoiceEvent | BaseException, item: ChoiceEvent | BaseException) -> ChoiceEvent | None:
    if isinstance(last, BaseException) or isinstance(item, BaseException) or last[0] != item[0]:
        return None
    earlier, later = last[1], item[1]
    if not (isinstance(earlier, TextDelta) and isinstance(later, TextDelta)):
        return None
    return last[0], TextDelta(earlier.text + later.text, earlier.num_new_tokens + later.num_new_tokens)


async def answer(
    permits: Permits,
    prepare: Callable[[], Awaitable[Ask]],
    mailbox: Mailbox,
    *,
    num_choices: int = 1,
    stream_interval: int = 1,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> Events:
    """Answers one request.

    Places are taken with the first event that is asked for, and given back when the stream ends or is closed; the
    model's part of the work is cancelled by then.

    Args:
        prepare: checks the request and reads its images; called once there is a place for it.
        mailbox: an empty one. Who puts an exception into it ends the answer with that.
        stream_interval: tokens that make an event, at least, but for the first and last of a choice.

    Yields:
        (choice, event) until each choice had its `Finished`, and a `KeepAlive` wherever there was silence.

    Raises:
        LlavaError: what one of the choices met; the others are cancelled.
    """
    with permits.reserve(num_choices) as reservation:
        work = asyncio.ensure_future(_prepare_and_write(reservation, prepare, mailbox, num_choices, stream_interval))
        work.add_done_callback(lambda done: mailbox.put(_broken_off()) if done.cancelled() else None)
        try:
            unfinished = num_choices
            while unfinished:
                item = await mailbox.get(keep_alive_s)
                if item is None:
                    yield KeepAlive()
                    continue
                if isinstance(item, BaseException):
                    raise item
                unfinished -= isinstance(item[1], Finished)
                yield item
        finally:
            await cancel_and_wait(work)


async def _prepare_and_write(
    reservation: Reservation,
    prepare: Callable[[], Awaitable[Ask]],
    mailbox: Mailbox,
    num_choices: int,
    stream_interval: int,
) -> None:
    choices: list[asyncio.Task[None]] = []
    try:
        ask = await prepare()
        for index in range(num_choices):
            choices.append(asyncio.ensure_future(_write(reservation, ask, index, mailbox, stream_interval)))
        # Not gather: when it is cancelled it cancels its tasks, and `cancel_and_wait` would do so a second time.
        done, _ = await asyncio.wait(choices, return_when=asyncio.FIRST_EXCEPTION)
        for choice in done:
            choice.result()
    except Exception as error:  # travels to the reader, which raises it
        mailbox.put(error)
    finally:
        await cancel_and_wait(*choices)


async def _write(reservation: Reservation, ask: Ask, index: int, mailbox: Mailbox, stream_interval: int) -> None:
    """Reads one choice to its end, in pieces of `stream_interval` tokens."""
    async with reservation.hold(), aclosing(ask(index)) as events:
        held, num_held, wanted = "", 0, 1  # the first piece goes at once
        async for event in events:
            if isinstance(event, TextDelta):
                held += event.text
                num_held += event.num_new_tokens
                if num_held < wanted:
                    continue
            if held:
                mailbox.put((index, TextDelta(held, num_held)))
                held, num_held, wanted = "", 0, stream_interval
            if isinstance(event, Finished):
                mailbox.put((index, event))
                return
    raise _broken_off()


def _broken_off() -> WorkerLost:
    return WorkerLost("the answer broke off before its end. Ask again.")


async def collect(events: Events, num_choices: int) -> tuple[list[str], list[Finished]]:
    """The whole texts and ends of all choices."""
    texts = [""] * num_choices
    finished: list[Finished | None] = [None] * num_choices
    async with aclosing(events):
        async for item in events:
            if isinstance(item, KeepAlive):
                continue
            index, event = item
            if isinstance(event, Finished):
                finished[index] = event
            else:
                texts[index] += event.text
    return texts, [end for end in finished if end is not None]
