"""From the events of an answer to the bytes of a stream: frames of the original's protocol, or server-sent events.

What fails before the first byte is raised, and becomes an HTTP status; what fails later becomes the stream's last word.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

from fastapi import Request, Response

from llava.errors import LlavaError
from llava.serve.protocol.openai_requests import COMMENT, DONE, Reply, event
from llava.serve.protocol.original import UNKNOWN_FAILURE, ErrorBody, ErrorCode, error_frame, frame, openai_error
from llava.serve.service.cancellation import cancel_and_wait
from llava.serve.service.stream import Stream
from llava.serve.service.tracing import request_id
from llava.serve.worker.backend import Finished
from llava.serve.worker.choices import Events, KeepAlive

T = TypeVar("T")
Bytes = AsyncGenerator[bytes, None]

CLIENT_GONE: Final = 499
"""The status that logs show for a client that left before there was an answer (nginx's number; nobody receives it)."""

log = logging.getLogger(__name__)


async def frames(events: Events, prompt: str) -> Bytes:
    """The original's stream: in each frame the prompt and all of the answer so far."""
    text = prompt
    started = False
    try:
        async with aclosing(events):
            async for item in events:
                if not isinstance(item, KeepAlive):
                    if isinstance(item[1], Finished):
                        continue
                    text += item[1].text
                yield frame(text)
                started = True
        if not started:
            yield frame(text)
    except LlavaError as error:
        if not started:
            raise
        yield error_frame(error, request_id())
    except Exception:  # the last place where the client can still be told
        if not started:
            raise
        log.exception("unexpected error in request %s", request_id())
        yield frame(UNKNOWN_FAILURE, ErrorCode.WORKER, error=ErrorBody.of(_unexpected(), request_id()))


async def chunks(events: Events, reply: Reply, num_choices: int, *, usage: bool) -> Bytes:
    """OpenAI's stream: chunks of text by choice, then perhaps token counts, then `[DONE]`."""
    finished: list[Finished] = []
    open_choices: set[int] = set()
    started = False
    try:
        async with aclosing(events):
            async for item in events:
                if isinstance(item, KeepAlive):
                    yield COMMENT
                    started = True
                    continue
                if not open_choices:
                    open_choices.update(range(num_choices))
                    yield b"".join(map(reply.first, range(num_choices)))
                    started = True
                index, said = item
                if isinstance(said, Finished):
                    finished.append(said)
                    yield reply.last(index, said.finish_reason)
                else:
                    yield reply.text(index, said.text)
        yield reply.usage(finished) + DONE if usage else DONE
    except LlavaError as error:
        if not started:
            raise
        yield event(openai_error(error, request_id()))
    except Exception:  # the last place where the client can still be told
        if not started:
            raise
        log.exception("unexpected error in request %s", request_id())
        yield event(openai_error(_unexpected(), request_id()))


def _unexpected() -> LlavaError:
    return LlavaError(f"an unexpected error; the server's log tells more under {request_id()}.")


class Opened(AsyncGenerator[bytes, None]):
    """A stream whose first bytes have been waited for, so that closing it always closes what is behind it."""

    def __init__(self, first: bytes | None, rest: Bytes):
        self._first, self._rest = first, rest

    async def asend(self, value: None) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._rest.asend(value)

    async def athrow(self, *error: Any) -> bytes:
        return await self._rest.athrow(*error)

    async def aclose(self) -> None:
        await self._rest.aclose()


async def respond(request: Request, body: Bytes, media_type: str) -> Response:
    """A streaming response, once its first bytes are there; until then what `body` raises is raised.

    The client is watched from the beginning: `body` is closed as soon as it has gone.
    """
    try:
        first = await while_connected(request, _first(body))
    except BaseException:
        await body.aclose()
        raise
    if first is None:
        return Response(status_code=CLIENT_GONE)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # proxies must not hold tokens back
    return Stream(Opened(first, body), media_type=media_type, headers=headers)


async def _first(body: Bytes) -> bytes:
    return await body.__anext__()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None where the client left first; `work` has ended by then in either case."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await cancel_and_wait(task, gone)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
