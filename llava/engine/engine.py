"""The engine: generates the answers to many requests at once, and streams them.

`Engine` is what programs call. Behind it a `Scheduler` runs each request: batched requests go through a `BatchQueue` to
transformers' batching manager, which a `Supervisor` restarts after crashes; a `SequentialRunner` answers the others.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llava.engine.batch_queue import PREPARED_AHEAD
from llava.engine.request import Request
from llava.engine.request_state import EngineEvent, RequestState, Sink
from llava.engine.scheduler import Scheduler
from llava.engine.self_check import why_batching_differs
from llava.engine.settings import EngineSettings, EngineStats
from llava.errors import LlavaError
from llava.text_generation.answer_events import Answer, AnswerEvent, AnswerEvents, Failure, Piece


class Engine:
    """Generates text with one model. Create one engine, share it between threads and event loops, and close it."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        context_length: int,
        settings: EngineSettings | None = None,
    ):
        """
        Args:
            model, tokenizer, image_processor, context_length: the values that `load_pretrained_model` returns. The
                model belongs to the engine until `close`.

        Raises:
            OutOfMemory, EngineFailed: the device cannot hold the cache, or the manager does not start.
        """
        self.settings = settings or EngineSettings()
        self._scheduler = Scheduler(model, tokenizer, image_processor, context_length, self.settings)
        if self.settings.self_check and self._scheduler.batches is not None:
            try:
                self._scheduler.finish_check(why_batching_differs(self._scheduler, model, tokenizer, image_processor))
            except BaseException:
                self._scheduler.close()
                raise

    def generate(
        self,
        requests: Iterable[Request],
        *,
        on_answer: Callable[[int, Answer | LlavaError], None] | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """Answers many requests and returns their answers in the order of the requests.

        Args:
            requests: taken from the iterable only when there is room for them.
            on_answer: called with the index and the answer (or error) of each request as it finishes.
            return_errors: return an error in place of its answer, instead of raising the first error.

        Raises:
            LlavaError: a request cannot be served; the other requests are cancelled.
        """
        results: dict[int, Any] = {}
        events: queue.SimpleQueue[tuple[int, EngineEvent]] = queue.SimpleQueue()
        in_flight: dict[int, RequestState] = {}
        source = enumerate(requests)
        try:
            while True:
                while len(in_flight) < self.limit + PREPARED_AHEAD and (following := next(source, None)):
                    index, request = following
                    in_flight[index] = self._scheduler.submit(request, _with_index(events, index), may_wait=True)
                if not in_flight:
                    return [results[index] for index in sorted(results)]
                index, event = events.get()
                if isinstance(event, Piece):
                    continue
                del in_flight[index]
                if isinstance(event, Failure) and not return_errors:
                    raise event.take()
                results[index] = event.take() if isinstance(event, Failure) else event
                if on_answer is not None:
                    on_answer(index, results[index])
        finally:
            for state in in_flight.values():
                self._scheduler.cancel(state)

    def iterate(self, request: Request) -> Iterator[AnswerEvent]:
        """Answers one request like `stream`, for programs without an event loop."""
        events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        state = self._scheduler.submit(request, events.put)
        try:
            while not isinstance(event := events.get(), Answer):
                if isinstance(event, Failure):
                    raise event.take()
                yield event
            yield event
        finally:
            self._scheduler.cancel(state)

    async def stream(self, request: Request) -> AnswerEvents:
        """Answers one request: yields pieces of text as soon as they are certain, then the whole answer.

        Closing the iterator before its end cancels the request.

        Raises:
            QueueFull: too many requests are waiting; nothing was begun.
            LlavaError: the request cannot be served, or the engine failed on it.
        """
        events = _LoopQueue()
        state = self._scheduler.submit(request, events.put)
        try:
            while not isinstance(event := await events.get(), Answer):
                if isinstance(event, Failure):
                    raise event.take()
                yield event
            yield event
        finally:
            self._scheduler.cancel(state)

    @property
    def queue_length(self) -> int:
        """Number of requests running and waiting."""
        return self._scheduler.num_open

    @property
    def limit(self) -> int:
        """Largest number of requests that run at once."""
        return self._scheduler.limit

    @property
    def images_in_use(self) -> int:
        """Number of images that the running requests hold in the image table."""
        batches = self._scheduler.batches
        return batches.table.num_in_use if batches is not None else 0

    @property
    def stats(self) -> EngineStats:
        """A copy of the counters."""
        return self._scheduler.stats()

    @property
    def healthy(self) -> bool:
        """Whether requests can be served: the engine's thread runs, and running requests make progress."""
        return self._scheduler.healthy

    def close(self) -> None:
        """Ends all requests with `ShuttingDown`, stops all threads and gives the model back as it was."""
        self._scheduler.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _LoopQueue:
    """A queue that any thread fills and one event loop reads. Belongs to the loop that is running when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[EngineEvent] = asyncio.Queue()

    def put(self, event: EngineEvent) -> None:
        if not self._loop.is_closed():  # nobody reads the streams of a loop that was closed under them
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def get(self) -> EngineEvent:
        return await self._events.get()


def _with_index(events: queue.SimpleQueue[tuple[int, EngineEvent]], index: int) -> Sink:
    return lambda event: events.put((index, event))
