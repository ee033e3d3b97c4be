"""Turns the events of a request into an HTTP response: a stream of the original's frames, or of OpenAI's events.

An error before the first event is raised and becomes an HTTP status. An error after it becomes the last word of the
stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

from fastapi import Request, Response

from llava.errors import LlavaError
from llava.serve.protocol.openai_replies import DONE, KEEP_ALIVE_COMMENT, ReplyEncoder, sse_event
from llava.serve.protocol.original import UNKNOWN_FAILURE, ErrorBody, error_code_of, frame, openai_error
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.service.stream import Stream
from llava.serve.service.tracing import request_id
from llava.serve.worker.answer_buffer import ChoiceEvent, KeepAlive, WorkerEvent, WorkerEvents
from llava.text_generation.answer_events import Answer

T = TypeVar("T")
Bytes = AsyncGenerator[bytes, None]
Encode = Callable[[WorkerEvent, WorkerEvents], Bytes]
"""Encodes a stream, given its first event and the others."""

CLIENT_GONE: Final = 499
"""Status that logs show for a client that left before its answer began (nginx's number; nobody receives it)."""

log = logging.getLogger(__name__)


async def respond(request: Request, events: WorkerEvents, encode: Encode, media_type: str) -> Response:
    """Waits for the first event and returns a streaming response.

    `events` is closed as soon as the client has left.

    Raises:
        LlavaError: the request failed before its first event.
    """
    try:
        first = await while_connected(request, _next(events))
    except BaseException:
        await events.aclose()
        raise
    if first is None:
        return Response(status_code=CLIENT_GONE)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # proxies must not hold tokens back
    return Stream(encode(first, events), on_close=events.aclose, media_type=media_type, headers=headers)


async def frames(first: WorkerEvent, events: WorkerEvents, *, prompt: str) -> Bytes:
    """Encodes the original's stream, in which each frame has the prompt and the answer so far."""
    text, is_empty = prompt, True
    item: WorkerEvent | None = first
    try:
        while item is not None:
            new_text = _text_of(item)
            if new_text or isinstance(item, KeepAlive):
                text += new_text
                yield frame(text)
                is_empty = False
            item = await anext(events, None)
        if is_empty:
            yield frame(text)
    except Exception as error:
        message = str(error) if isinstance(error, LlavaError) else UNKNOWN_FAILURE
        reported = _last_word(error)
        yield frame(message, error_code_of(reported), error=ErrorBody.of(reported, request_id()))


async def chunks(
    first: WorkerEvent, events: WorkerEvents, *, encoder: ReplyEncoder, num_choices: int, with_usage: bool
) -> Bytes:
    """Encodes OpenAI's stream: the text of each choice in chunks, perhaps the token counts, then `[DONE]`."""
    answers: list[Answer] = []
    is_open = False
    item: WorkerEvent | None = first
    try:
        while item is not None:
            if isinstance(item, KeepAlive):
                yield KEEP_ALIVE_COMMENT
            else:
                if not is_open:
                    is_open = True
                    yield b"".join(map(encoder.first, range(num_choices)))
                if isinstance(item.event, Answer):
                    answers.append(item.event)
                    yield encoder.last(item.choice, item.event.finish_reason)
                elif item.event.text:
                    yield encoder.text(item.choice, item.event.text)
            item = await anext(events, None)
        yield encoder.usage(answers) + DONE if with_usage else DONE
    except Exception as error:
        yield sse_event(openai_error(_last_word(error), request_id()))


async def collect(events: WorkerEvents, num_choices: int) -> list[Answer]:
    """Waits for the answers of all choices."""
    answers: dict[int, Answer] = {}
    async with aclosing(events):
        async for item in events:
            if isinstance(item, ChoiceEvent) and isinstance(item.event, Answer):
                answers[item.choice] = item.event
    return [answers[choice] for choice in range(num_choices)]


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Returns the result of `work`, or None if the client left first. `work` has ended in either case."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel_and_wait(task, gone)


def _text_of(item: WorkerEvent) -> str:
    return "" if isinstance(item, KeepAlive) or isinstance(item.event, Answer) else item.event.text


def _last_word(error: Exception) -> LlavaError:
    """Returns the error that a stream reports at its end; logs an unexpected error."""
    if isinstance(error, LlavaError):
        return error
    log.error("Unexpected error in request %s", request_id(), exc_info=error)
    return LlavaError(f"an unexpected error occurred. The server's log has details under {request_id()}.")


async def _next(events: WorkerEvents) -> WorkerEvent:
    return await anext(events)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
