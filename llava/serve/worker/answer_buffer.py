"""Buffers what the choices of one request write until the client's side takes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from llava.text_generation.answer_events import Answer, AnswerEvent, Failure, Piece


@dataclass(frozen=True, slots=True)
class ChoiceEvent:
    """An event of one of the choices of a request."""

    choice: int
    event: AnswerEvent


class KeepAlive:
    """Fills a long silence in a stream."""


WorkerEvent = ChoiceEvent | KeepAlive
WorkerEvents = AsyncGenerator[WorkerEvent, None]
"""The events of all choices, with one `Answer` each, and a `KeepAlive` for each long silence."""


@dataclass(slots=True)
class _Held:
    """What one choice has written and nobody has taken yet."""

    text: str = ""
    num_tokens: int = 0
    num_wanted: int = 1
    """Number of tokens from which the text is handed out; the first piece is handed out at once."""
    answer: Answer | None = None


class AnswerBuffer:
    """Takes the events of several writers and hands them to one reader. Belongs to one event loop.

    The text of a choice is handed out as one piece as soon as it has `stream_interval` tokens, or when the choice ends.
    Everything that arrives before the reader takes it joins that piece. So the buffer never grows beyond the answers,
    and a writer never waits for the reader.
    """

    def __init__(self, num_choices: int = 1, stream_interval: int = 1):
        """
        Args:
            stream_interval: smallest number of tokens in a piece, except for the first and the last one of a choice.
        """
        self.num_choices = num_choices
        self._stream_interval = stream_interval
        self._held = [_Held() for _ in range(num_choices)]
        self._due: deque[int] = deque()
        self._num_unfinished = num_choices
        self._failure: Failure | None = None
        self._arrival: asyncio.Future[None] | None = None

    @property
    def is_done(self) -> bool:
        """Whether the answers of all choices have been handed out."""
        return self._num_unfinished == 0

    def put(self, choice: int, event: AnswerEvent) -> None:
        """Adds an event of a choice."""
        held = self._held[choice]
        if isinstance(event, Answer):
            held.answer = event
        else:
            held.text += event.text
            held.num_tokens += event.num_new_tokens
        if held.answer is not None or (held.text and held.num_tokens >= held.num_wanted):
            self._mark_due(choice)

    def fail(self, error: BaseException) -> None:
        """Ends the answer with an error, which the reader meets after the text written so far."""
        if self._failure is not None:
            return
        self._failure = Failure(error)
        for choice, held in enumerate(self._held):
            if held.text:
                self._mark_due(choice)
        self._wake()

    async def get(self, timeout_s: float) -> ChoiceEvent | None:
        """Returns the next event, or None after `timeout_s` without an event.

        Raises:
            BaseException: the error given to `fail`.
        """
        if not self._due and self._failure is None:
            await self._wait(timeout_s)
        if self._due:
            return self._take(self._due.popleft())
        if self._failure is not None:
            raise self._failure.take()
        return None

    def _take(self, choice: int) -> ChoiceEvent:
        held = self._held[choice]
        answer = held.answer
        if answer is None or held.text or held.num_tokens:
            piece = Piece(held.text, held.num_tokens)
            held.text, held.num_tokens, held.num_wanted = "", 0, self._stream_interval
            if answer is not None:
                self._due.appendleft(choice)
            return ChoiceEvent(choice, piece)
        held.answer = None
        self._num_unfinished -= 1
        return ChoiceEvent(choice, answer)

    def _mark_due(self, choice: int) -> None:
        if choice not in self._due:
            self._due.append(choice)
        self._wake()

    async def _wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._arrival = loop.create_future()
        timer = loop.call_later(timeout_s, self._wake)
        try:
            await self._arrival
        finally:
            timer.cancel()
            self._arrival = None

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
