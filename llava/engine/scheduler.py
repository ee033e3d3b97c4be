"""Runs the requests of an engine on a thread of its own, which owns all their state.

Other threads send this thread commands: callers send new requests and cancellations, the preparer sends prepared
requests, the batching manager reports its steps, and the sequential runner sends finished requests.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from llava.engine.batch_queue import BatchQueue
from llava.engine.capacity import why_not_batched
from llava.engine.commands import (
    EngineCommand,
    RequestArrived,
    RequestCancelled,
    RequestFinished,
    RequestPrepared,
    SelfChecked,
    StepReported,
)
from llava.engine.request import Request
from llava.engine.request_state import RequestState, Sink
from llava.engine.sequential import SequentialRunner
from llava.engine.settings import EngineSettings, EngineStats
from llava.errors import EngineFailed, LlavaError, QueueFull, ShuttingDown
from llava.text_generation.answer_events import Answer

logger = logging.getLogger(__name__)

_WEDGED_S = 90.0
"""Seconds of silence after which an engine with running requests counts as unhealthy."""


class Scheduler:
    """Accepts requests on any thread and runs each of them, batched or sequentially, to its end."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, context_length: int, settings: EngineSettings):
        """
        Raises:
            OutOfMemory, EngineFailed: the device cannot hold the cache, or the manager does not start.
        """
        self._settings = settings
        self._stats = EngineStats()
        self._numbers = itertools.count(1)
        self._open: set[RequestState] = set()
        self._open_lock = threading.Lock()
        self._closing = False
        self._failure: BaseException | None = None
        self._inbox: queue.SimpleQueue[EngineCommand | None] = queue.SimpleQueue()
        loaded = (model, tokenizer, image_processor, context_length)
        self._sequential = SequentialRunner(*loaded, post=self._inbox.put)
        reason = "the settings ask for it" if settings.one_by_one else why_not_batched(model)
        self.batches: BatchQueue | None = None
        """None if requests are answered one by one."""
        if reason is None:
            self.batches = BatchQueue(*loaded, settings, post=self._inbox.put, on_end=self._close)
        else:
            logger.info("Requests are answered one by one: %s.", reason)
        self._thread = threading.Thread(target=self._run, name="llava-engine", daemon=True)
        self._thread.start()

    # Called on any thread

    @property
    def limit(self) -> int:
        """Largest number of requests that run at once."""
        return self._settings.batch.max_running if self.batches else 1

    @property
    def num_open(self) -> int:
        """Number of requests running and waiting."""
        return len(self._open)

    @property
    def healthy(self) -> bool:
        """Whether requests can be served: the thread runs, and running requests make progress."""
        silence_s = max(self._sequential.silence_s, self.batches.supervisor.silence_s if self.batches else 0.0)
        return self._failure is None and silence_s < _WEDGED_S

    def stats(self) -> EngineStats:
        """Returns a copy of the counters."""
        steps = [self._sequential.steps]
        stats = replace(self._stats)
        if self.batches is not None:
            steps.append(self.batches.supervisor.steps)
            stats.deaths = self.batches.supervisor.num_crashes
            stats.images_encoded = self.batches.table.num_stored
            stats.images_found = self.batches.table.num_hits
        stats.steps_after_cancel = sum(count.total for count in steps)
        stats.most_steps_after_cancel = max(count.most for count in steps)
        return stats

    def submit(self, request: Request, sink: Sink, *, may_wait: bool = False) -> RequestState:
        """Accepts a request.

        Args:
            sink: receives the events of the request on the engine's threads.
            may_wait: accept the request even if the queue is full.

        Raises:
            QueueFull: too many requests are waiting.
            EngineFailed, ShuttingDown: no request is accepted any more.
        """
        state = RequestState(next(self._numbers), request, sink)
        with self._open_lock:
            if self._failure is not None:
                raise EngineFailed(f"the engine has stopped: {self._failure}. Start it again.")
            if self._closing:
                raise ShuttingDown("the engine is shutting down.")
            if not may_wait and len(self._open) >= self.limit + self._settings.max_waiting:
                raise QueueFull(
                    f"the engine is full: {len(self._open)} requests are running or waiting. Try again in a moment."
                )
            self._open.add(state)
        self._inbox.put(RequestArrived(state))
        return state

    def cancel(self, state: RequestState) -> None:
        """Ends a request silently, unless it has ended already."""
        if state.done:
            return
        state.cancelled = True
        self._sequential.steps.cancelled(state.number)
        if self.batches is not None:
            self.batches.cancel(state)
        self._inbox.put(RequestCancelled(state))

    def finish_check(self, difference: str | None) -> None:
        """Begins to count, and answers one by one from now on if batched answers are wrong (`difference`)."""
        checked = SelfChecked(difference)
        self._inbox.put(checked)
        checked.handled.wait()

    def close(self) -> None:
        """Ends all requests with `ShuttingDown`, stops all threads and gives the model back as it was."""
        if self._closing:
            return
        self._closing = True
        if self.batches is not None:
            self.batches.stop_preparing()
        self._inbox.put(None)
        self._thread.join()
        self._sequential.close()
        if self.batches is not None:
            self.batches.close()

    # Called on the engine's thread

    def _run(self) -> None:
        try:
            while self._handle_next():
                pass
            self._end_all(ShuttingDown("the engine is shutting down."))
        except BaseException as error:
            # Whatever happened, no caller may wait for an answer that never comes.
            with self._open_lock:
                self._failure = error
            logger.critical("The engine's thread ended.", exc_info=True)
            self._end_all(EngineFailed(f"the engine has stopped: {error}. Start it again."))

    def _handle_next(self) -> bool:
        """Handles one command and forgets it, and with it the images of its request; returns False at the end."""
        command = self._inbox.get()
        match command:
            case None:
                return False
            case RequestArrived(state):
                self._arrived(state)
            case RequestCancelled(state):
                self._close(state, None)
            case RequestFinished(state, result):
                self._close(state, result)
            case RequestPrepared(state, error) if self.batches is not None:
                self.batches.prepared(state, error)
            case StepReported(batcher, progress) if self.batches is not None:
                self.batches.progressed(batcher, progress)
            case SelfChecked(difference, handled):
                self._checked(difference)
                handled.set()
        if self.batches is not None:
            self.batches.advance()
        return True

    def _arrived(self, state: RequestState) -> None:
        if state.done:
            return
        if self.batches is not None and state.request.sampling.num_beams == 1:
            self.batches.add(state)
        else:
            self._sequential.submit(state)

    def _checked(self, difference: str | None) -> None:
        self._stats = EngineStats()
        if self.batches is None:
            return
        self.batches.table.num_hits = self.batches.table.num_stored = 0
        if difference is not None:
            logger.warning(
                "Requests are answered one by one: batched answers are not the model's own with transformers %s and "
                "torch %s (%s).",
                version("transformers"),
                version("torch"),
                difference,
            )
            batches, self.batches = self.batches, None
            batches.stop_preparing()
            batches.close()

    def _close(self, state: RequestState, result: Answer | LlavaError | None) -> None:
        """Ends a request with its answer or an error, or silently (None) because nobody waits for it any more."""
        if state.done:
            return
        if result is None:
            self._stats.cancelled += 1
        elif isinstance(result, Answer):
            self._stats.answered += 1
        else:
            self._stats.failed += 1
        self._stats.prompt_tokens += len(state.prompt)
        self._stats.image_tokens += state.num_image_tokens
        self._stats.new_tokens += len(state.tokens)
        if self.batches is not None:
            self.batches.drop(state)
        with self._open_lock:
            self._open.discard(state)
        state.close(result)

    def _end_all(self, error: LlavaError) -> None:
        with self._open_lock:
            states, self._open = list(self._open), set()
        for state in states:
            state.close(error)
