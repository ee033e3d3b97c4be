"""Writes the choices of one request into a buffer, each under a permit.

Every choice is read as fast as its model writes. A client that reads slowly therefore holds no permit longer than its
answer takes, and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from llava.errors import WorkerLost
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.worker.answer_buffer import AnswerBuffer
from llava.serve.worker.backend import StartChoice
from llava.serve.worker.permits import Permits, Reservation
from llava.text_generation.answer_events import Answer

Prepare = Callable[[], Awaitable[StartChoice]]
OnEnd = Callable[[Answer | Exception], None]


@asynccontextmanager
async def writing_choices(
    permits: Permits, prepare: Prepare, buffer: AnswerBuffer, on_end: OnEnd
) -> AsyncIterator[None]:
    """Writes all choices of a request into `buffer` while the `async with` block reads from it.

    When the block ends, all places and permits are given back and the model's work on the request is cancelled. If a
    choice fails, the others are cancelled, and the buffer raises the error.

    Args:
        prepare: checks the request and reads its images; called once there is a place for the request.
        on_end: called with the answer or the error of each choice.

    Raises:
        QueueFull: there is no place for the request.
    """
    with permits.reserve(buffer.num_choices) as reservation:
        work = asyncio.ensure_future(_write_all(reservation, prepare, buffer, on_end))
        work.add_done_callback(lambda done: buffer.fail(_broken_off()) if done.cancelled() else None)
        try:
            yield
        finally:
            await cancel_and_wait(work)


async def _write_all(reservation: Reservation, prepare: Prepare, buffer: AnswerBuffer, on_end: OnEnd) -> None:
    choices: list[asyncio.Task[None]] = []
    try:
        start = await prepare()
        for choice in range(buffer.num_choices):
            choices.append(asyncio.ensure_future(_write(reservation, start, choice, buffer, on_end)))
        # Not gather: if it is cancelled it cancels its tasks, and `cancel_and_wait` would cancel them a second time.
        done, _ = await asyncio.wait(choices, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    except Exception as error:  # the reader raises it
        buffer.fail(error)
    finally:
        await cancel_and_wait(*choices)


async def _write(
    reservation: Reservation, start: StartChoice, choice: int, buffer: AnswerBuffer, on_end: OnEnd
) -> None:
    """Reads one choice to its end."""
    try:
        async with reservation.hold(), aclosing(await start(choice)) as events:
            async for event in events:
                buffer.put(choice, event)
                if isinstance(event, Answer):
                    on_end(event)
                    return
        raise _broken_off()
    except Exception as error:
        on_end(error)
        raise


def _broken_off() -> WorkerLost:
    return WorkerLost("the answer ended too early. Ask again.")
