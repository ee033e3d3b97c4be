"""The one way to generate: requests in, pieces of text and answers out, many at once.

One thread owns all state and takes messages from an inbox: new requests, prepared ones, progress of the batching
manager, cancellations. A second thread prepares requests (tokens, images), the manager has one of its own, and a
fourth answers one by one what the manager cannot do.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from llava.engine.batcher import BatchSettings
from llava.engine.capacity import cache_tokens, image_rows, why_not_batched
from llava.engine.image_table import IdsUsedUp, ImageEmbedding, ImageTable
from llava.engine.preparation import Preparation
from llava.engine.request import Request
from llava.engine.request_state import Event, Sink, Ticket
from llava.engine.sequential import Soloist, end_ids
from llava.engine.steps_after_cancel import StepsAfterCancel
from llava.engine.supervisor import Supervisor, as_error
from llava.errors import ContextTooLong, EngineFailed, LlavaError, QueueFull, ShuttingDown
from llava.text_generation.settings import Answer, Piece

logger = logging.getLogger(__name__)

_WEDGED_S = 90.0
"""An engine that runs requests and says nothing for so long is not well."""

_PREPARED_AHEAD = 8
"""Requests prepared before there is room for them, so that the manager never waits for an image."""


@dataclass(frozen=True)
class EngineSettings:
    batch: BatchSettings = field(default_factory=BatchSettings)
    max_waiting: int = 256
    """Requests that may wait beside those running; more are refused."""
    image_rows: int | None = None
    """Features of images kept for further questions; None keeps those of 32 images, or of one full context."""
    one_by_one: bool = False
    """Never batch."""


@dataclass
class EngineStats:
    """Counted since the engine was made."""

    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    deaths: int = 0
    """Managers that ended with an exception and were replaced."""
    images_encoded: int = 0
    images_found: int = 0
    """Images whose features were still there from an earlier request."""
    prompt_tokens: int = 0
    image_tokens: int = 0
    new_tokens: int = 0
    steps_after_cancel: int = 0
    """Steps spent on requests that were cancelled, from the one under way then on."""
    most_steps_after_cancel: int = 0
    """Those of the one request that had the most; 2 at most."""


class Engine:
    """Serves one model. Make one, share it between threads and event loops, and close it."""

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
            model, tokenizer, image_processor, context_length: what `load_pretrained_model` returns. Until `close` the
                model belongs to the engine.

        Raises:
            OutOfMemory, EngineFailed: the device cannot hold the cache, or the manager does not start.
        """
        self.settings = settings or EngineSettings()
        self._model = model
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._context_length = context_length
        self._stats = EngineStats()
        self._numbers = itertools.count(1)
        self._open: set[Ticket] = set()
        self._open_lock = threading.Lock()
        self._closing = False
        self._failure: BaseException | None = None
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Ticket] = deque()
        self._preparing = 0
        self._ready: deque[Ticket] = deque()
        self._ids_used_up = False

        # One count a thread that computes: a step of one does not end what is under way in the other.
        self._steps_alone, self._steps = StepsAfterCancel(), StepsAfterCancel()
        self._soloist = Soloist(
            model,
            tokenizer,
            image_processor,
            context_length,
            lambda *end: self._tell(lambda: self._close(*end)),
            self._steps_alone,
        )
        reason = "as asked" if self.settings.one_by_one else why_not_batched(model)
        self._batches = reason is None
        if self._batches:
            self._begin_batching()
        else:
            logger.info("requests are answered one by one: %s", reason)
        self._thread = threading.Thread(target=self._run, name="llava-engine", daemon=True)
        self._thread.start()

    def _begin_batching(self) -> None:
        embedding = self._model.get_input_embeddings()
        vocabulary = max(embedding.weight.shape[0], len(self._tokenizer))
        num_rows = self.settings.image_rows or image_rows(self._model, self._context_length)
        batch = self.settings.batch
        if batch.cache_tokens is None:
            batch = replace(batch, cache_tokens=cache_tokens(self._model, batch.max_running, self._context_length))
        self._attention = self._model.config._attn_implementation
        self._embedding = ImageEmbedding(embedding, vocabulary, num_rows)
        self._model.set_input_embeddings(self._embedding)
        self._table = ImageTable(self._embedding)
        self._preparation = Preparation(
            self._model, self._tokenizer, self._image_processor, self._table, self._context_length
        )
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="llava-prepare")
        self._end_ids = end_ids(self._model)
        try:
            self._supervisor = Supervisor(
                self._model,
                batch,
                self._end_ids,
                tell=self._tell,
                on_answered=self._answered,
                on_failed=self._close,
                steps=self._steps,
            )
        except BaseException:
            self._give_back_model()
            raise

    # What users call

    def generate(
        self,
        requests: Iterable[Request],
        *,
        on_answer: Callable[[int, Answer | LlavaError], None] | None = None,
        return_errors: bool = False,
    ) -> list[Any]:
        """Answers many requests; returns their answers in the order of the requests.

        Args:
            requests: taken from the iterable only as there is room for them.
            on_answer: called with index and answer (or error) as each one is finished, for progress.
            return_errors: put a request's error in its place, instead of raising the first one.
        """
        results: dict[int, Answer | LlavaError] = {}
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        in_flight: dict[int, Ticket] = {}
        source = enumerate(requests)
        try:
            while True:
                while len(in_flight) < self.limit + _PREPARED_AHEAD and (following := next(source, None)):
                    index, request = following
                    in_flight[index] = self._submit(request, _indexed(events, index), may_wait=True)
                if not in_flight:
                    return [results[index] for index in sorted(results)]
                index, event = events.get()
                if isinstance(event, Piece):
                    continue
                del in_flight[index]
                if isinstance(event, LlavaError) and not return_errors:
                    try:
                        raise event
                    finally:
                        del event  # see _no_error
                results[index] = event
                if on_answer is not None:
                    on_answer(index, event)
        finally:
            for ticket in in_flight.values():
                self._cancel(ticket)

    def iterate(self, request: Request) -> Iterator[Piece | Answer]:
        """`stream` for programs without an event loop."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self._submit(request, events.put)
        try:
            while not isinstance(event := _no_error(events.get()), Answer):
                yield event
            yield event
        finally:
            self._cancel(ticket)

    async def stream(self, request: Request) -> AsyncGenerator[Piece | Answer, None]:
        """Answers one request: pieces of its text as they become certain, then the whole answer.

        Closing the iterator before its end cancels the request.

        Raises:
            QueueFull: too many wait; nothing was begun.
            LlavaError: the request cannot be served, or the engine failed on it.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        ticket = self._submit(request, lambda event: _put_in_loop(loop, events, event))
        try:
            while not isinstance(event := _no_error(await events.get()), Answer):
                yield event
            yield event
        finally:
            self._cancel(ticket)

    @property
    def queue_length(self) -> int:
        """Requests running and waiting."""
        return len(self._open)

    @property
    def limit(self) -> int:
        """Requests that run at once."""
        return self.settings.batch.max_running if self._batches else 1

    @property
    def images_in_use(self) -> int:
        """Images that the requests running hold in the table."""
        return self._table.num_in_use if self._batches else 0

    @property
    def stats(self) -> EngineStats:
        """A copy of the counters."""
        counts = (self._steps_alone, self._steps)
        stats = replace(
            self._stats,
            steps_after_cancel=sum(count.total for count in counts),
            most_steps_after_cancel=max(count.most for count in counts),
        )
        if not self._batches:
            return stats
        return replace(
            stats,
            deaths=self._supervisor.num_deaths,
            images_encoded=self._table.num_stored,
            images_found=self._table.num_hits,
        )

    @property
    def healthy(self) -> bool:
        """Whether requests can be served: the engine's thread lives, and what runs makes progress."""
        if self._failure is not None:
            return False
        since = [self._soloist.last_progress] if self._soloist.is_busy else []
        if self._batches and self._supervisor.num_running:
            since.append(self._supervisor.last_progress)
        return all(time.monotonic() - moment < _WEDGED_S for moment in since)

    def close(self) -> None:
        """Ends all requests with `ShuttingDown`, stops all threads and gives the model back as it was."""
        if self._closing:
            return
        self._closing = True
        if self._batches:
            self._table.close()
        self._inbox.put(None)
        self._thread.join()
        self._soloist.close()
        if self._batches:
            self._preparer.shutdown(cancel_futures=True)
            self._supervisor.stop()
            self._give_back_model()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _give_back_model(self) -> None:
        self._model.set_input_embeddings(self._embedding.text)
        self._model.set_attn_implementation(self._attention)

    # Requests in and out; any thread

    def _submit(self, request: Request, sink: Sink, *, may_wait: bool = False) -> Ticket:
        ticket = Ticket(next(self._numbers), request, sink)
        with self._open_lock:
            if self._failure is not None:
                raise EngineFailed(f"the engine has stopped: {self._failure}. Start it again.")
            if self._closing:
                raise ShuttingDown("the engine is shutting down.")
            if not may_wait and len(self._open) >= self.limit + self.settings.max_waiting:
                raise QueueFull(
                    f"{len(self._open)} requests are running or waiting, which is all this engine takes. Try again."
                )
            self._open.add(ticket)
        self._tell(lambda: self._arrived(ticket))
        return ticket

    def _cancel(self, ticket: Ticket) -> None:
        if not ticket.done:
            ticket.cancelled = True
            for count in (self._steps_alone, self._steps):
                count.cancelled(ticket.number)
            if self._batches:
                self._supervisor.cancel(ticket)
            self._tell(lambda: self._close(ticket, None))

    def _tell(self, message: Callable[[], None]) -> None:
        self._inbox.put(message)

    # The engine's thread

    def _run(self) -> None:
        try:
            while (message := self._inbox.get()) is not None:
                message()
                del message  # nobody's images are kept until the next one comes
                if self._batches:
                    self._move()
            self._end_all(ShuttingDown("the engine is shutting down."))
        except BaseException as error:
            # Whatever this is, nobody may wait for an answer that never comes.
            with self._open_lock:
                self._failure = error
            logger.critical("the engine's thread ended", exc_info=True)
            self._end_all(EngineFailed(f"the engine has stopped: {error}. Start it again."))

    def _end_all(self, error: LlavaError) -> None:
        with self._open_lock:
            tickets, self._open = list(self._open), set()
        for ticket in tickets:
            ticket.close(error)

    def _arrived(self, ticket: Ticket) -> None:
        if ticket.done:
            return
        if self._batches and ticket.request.sampling.num_beams == 1:
            self._waiting.append(ticket)
        else:
            self._soloist.begin(ticket)

    def _move(self) -> None:
        """Passes requests on as far as there is room."""
        if self._ids_used_up and not (self._preparing or self._ready) and self._supervisor.is_idle:
            self._ids_used_up = False
            self._table.forget_all()
            self._supervisor.restart()
        ahead = max(_PREPARED_AHEAD, self.limit - self._supervisor.num_running)
        while self._waiting and not self._ids_used_up and self._preparing + len(self._ready) < ahead:
            self._preparing += 1
            self._preparer.submit(self._prepare, self._waiting.popleft())
        for ticket in list(self._ready):
            if not self._supervisor.has_room_for(ticket):
                break
            if not self._supervisor.is_being_read(ticket.prompt):
                self._ready.remove(ticket)
                self._supervisor.begin(ticket)

    def _prepare(self, ticket: Ticket) -> None:
        """On the preparer's thread."""
        error: BaseException | None = None
        if not (ticket.done or ticket.cancelled or self._closing):
            try:
                self._preparation.prepare(ticket)
            except LlavaError as caught:
                error = caught.with_traceback(None)  # it would keep the images
            except BaseException as caught:
                error = caught
        self._tell(lambda: self._prepared(ticket, error))

    def _prepared(self, ticket: Ticket, error: BaseException | None) -> None:
        self._preparing -= 1
        room = self._supervisor.cache_tokens - len(ticket.prompt)
        if ticket.done:
            self._release(ticket)
        elif isinstance(error, IdsUsedUp):
            self._ids_used_up = True
            self._waiting.appendleft(ticket)
        elif error is not None:
            self._close(ticket, as_error(error))
        elif room < 1:
            self._close(ticket, ContextTooLong(len(ticket.prompt), self._supervisor.cache_tokens))
        else:
            ticket.max_new_tokens = min(ticket.max_new_tokens, room)
            ticket.open_text(self._tokenizer)
            self._ready.append(ticket)

    def _answered(self, ticket: Ticket) -> None:
        """All tokens are there."""
        self._close(ticket, ticket.answer(self._end_ids))

    def _close(self, ticket: Ticket, event: Answer | LlavaError | None) -> None:
        """Ends a request with its answer or an error, or (None) because nobody listens any more."""
        if ticket.done:
            return
        if event is None:
            self._stats.cancelled += 1
        elif isinstance(event, Answer):
            self._stats.answered += 1
        else:
            self._stats.failed += 1
        self._stats.prompt_tokens += len(ticket.prompt)
        self._stats.image_tokens += ticket.num_image_tokens
        self._stats.new_tokens += len(ticket.tokens)
        for place in (self._waiting, self._ready):
            if ticket in place:
                place.remove(ticket)
        if self._batches:
            self._supervisor.drop(ticket)
        self._release(ticket)
        with self._open_lock:
            self._open.discard(ticket)
        ticket.close(event)

    def _release(self, ticket: Ticket) -> None:
        for run in ticket.runs:
            self._table.release(run)
        ticket.runs = []


def _no_error(event: Event) -> Piece | Answer:
    """The event, if it is none that has to be raised."""
    if isinstance(event, LlavaError):
        try:
            raise event
        finally:
            del event  # the error knows this frame, which must not know the error: only a collection would end the two
    return event


def _indexed(events: queue.SimpleQueue[tuple[int, Event]], index: int) -> Sink:
    return lambda event: events.put((index, event))


def _put_in_loop(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    if not loop.is_closed():  # a loop that was closed under its streams: nobody listens
        loop.call_soon_threadsafe(events.put_nowait, event)
