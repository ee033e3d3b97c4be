"""Runs one worker: its backend, its permits, and its metrics.

Each token passes six layers on its way to the client:

1. `Engine.stream` turns the engine's events into an asynchronous generator (other backends have one of their own).
2. `choices.writing_choices` reads each choice under a permit, as fast as its model writes.
3. `AnswerBuffer` joins what the choices write into pieces.
4. `Worker` takes the pieces, keeps the metrics, and fills long silences.
5. `streams.frames` or `streams.chunks` encodes them.
6. `Stream` sends them, and closes everything above once the client has left.

An error travels the same way: the buffer passes it on after the text written so far, `Worker` counts it, and `streams`
turns it into an HTTP status or into the last word of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from llava.command_line import FAILED
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import ImageTokenMismatch, InvalidField, LlavaError, ModelNotFound, NotReady, ShuttingDown, TryAgain
from llava.serve.protocol.constants import MAX_TEXT_CHARACTERS
from llava.serve.protocol.openai_requests import ChatRequest
from llava.serve.protocol.original import GenerateRequest, WorkerStatus
from llava.serve.service.lifecycle import Lifecycle, cut_off_error
from llava.serve.service.metrics import Metrics
from llava.serve.worker.answer_buffer import AnswerBuffer, KeepAlive, WorkerEvent, WorkerEvents
from llava.serve.worker.backend import Backend, StartChoice
from llava.serve.worker.choices import Prepare, writing_choices
from llava.serve.worker.permits import DEFAULT_MAX_QUEUE, Permits
from llava.text_generation.answer_events import Answer

log = logging.getLogger(__name__)

KEEP_ALIVE_S: Final = 15.0
"""Longest silence on a stream in seconds; proxies close streams that are silent for a minute."""
_WATCH_INTERVAL_S: Final = 0.25
_LAST_WORDS_S: Final = 3.0
"""Seconds that running requests have to report the failure of the backend."""
_SEEN_DEAD_S: Final = 1.0
"""Seconds during which health checks can see that the backend has failed."""


class Worker:
    """Answers requests with a backend. Belongs to one event loop."""

    def __init__(
        self,
        backend: Backend,
        metrics: Metrics,
        *,
        max_queue: int = DEFAULT_MAX_QUEUE,
        stream_interval: int = 1,
        keep_alive_s: float = KEEP_ALIVE_S,
    ):
        """
        Args:
            max_queue: number of choices that may wait; further requests are refused.
            stream_interval: smallest number of tokens in a piece of a stream.
            keep_alive_s: longest silence on a stream in seconds.
        """
        self.backend = backend
        self.metrics = metrics
        self.permits: Permits | None = None
        """None until the backend is ready."""
        self.on_load_change: Callable[[], None] = lambda: None
        """Called when a request arrives or ends."""
        self.created = int(time.time())
        self._max_queue = max_queue
        self._stream_interval = stream_interval
        self._keep_alive_s = keep_alive_s
        self._open: set[AnswerBuffer] = set()
        backend.observe(metrics)
        metrics.queue_depth.set_function(lambda: self.permits.waiting if self.permits else 0)
        metrics.running.set_function(lambda: self.permits.in_use if self.permits else 0)
        metrics.permits_in_use.set_function(lambda: self.permits.in_use if self.permits else 0)

    async def start(self) -> None:
        """Starts the backend; returns once it has answered a first question."""
        await self.backend.start()
        self.permits = Permits(self.backend.limit, self._max_queue, on_wait=self.metrics.queue_seconds.observe)

    async def close(self) -> None:
        """Accepts no more requests and closes the backend."""
        self.permits = None
        await self.backend.close()

    def cut_off(self) -> None:
        """Ends all running answers with an error that their clients see."""
        for buffer in self._open:
            buffer.fail(cut_off_error())

    def status(self) -> WorkerStatus:
        """Returns the state of this worker for the controller."""
        own = self.permits.queue_length if self.permits else 0
        return WorkerStatus(
            model_names=self.backend.names, speed=1, queue_length=min(own + self.backend.queue_length(), 1_000_000)
        )

    def trouble(self) -> str | None:
        """Returns the reason why a request would fail now, or None."""
        if self.permits is None:
            return "the model is being loaded"
        if not self.backend.healthy:
            return "the backend has failed"
        return None if self.backend.ready else "the backend is not ready"

    def legacy(self, request: GenerateRequest) -> WorkerEvents:
        """Answers a request of the original's protocol."""

        async def prepare() -> StartChoice:
            _check(request)
            return await self.backend.legacy(request)

        return self._answer(request.model, prepare, 1)

    def chat(self, request: ChatRequest) -> WorkerEvents:
        """Answers a chat request with all its choices."""
        return self._answer(request.model, lambda: self.backend.chat(request), request.num_choices)

    async def _answer(self, model: str, prepare: Prepare, num_choices: int) -> WorkerEvents:
        """Yields the events of all choices. Closing the generator cancels the request.

        Raises:
            LlavaError: the error of one of the choices; the others are cancelled.
        """
        record, buffer = _Record(self.metrics), AnswerBuffer(num_choices, self._stream_interval)
        self._open.add(buffer)
        try:
            async with writing_choices(self._permits_for(model), prepare, buffer, self.backend.ended):
                self.on_load_change()
                while not buffer.is_done:
                    event = await buffer.get(self._keep_alive_s) or KeepAlive()
                    record.saw(event)
                    yield event
            record.outcome = "ok"
        except LlavaError as error:
            record.failed(error)
            if isinstance(error, ShuttingDown):
                self.metrics.aborted.labels("shutdown").inc()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            record.outcome = "aborted"
            self.metrics.aborted.labels("disconnect").inc()
            raise
        finally:
            self._open.discard(buffer)
            # A name that no model has would become a label that anybody may choose.
            record.close(model if model in self.backend.names else "unknown")
            self.on_load_change()

    def _permits_for(self, model: str) -> Permits:
        """Returns the permits for requests to a model.

        Raises:
            ModelNotFound, NotReady: the model is not served, or not yet.
        """
        if model not in self.backend.names:
            raise ModelNotFound(model, self.backend.names)
        if self.permits is None:
            raise NotReady("the model is still being loaded. Ask again in a moment.")
        return self.permits

    async def watch(self, lifecycle: Lifecycle, end: Callable[[int], None] = os._exit) -> None:
        """Ends the process once the backend cannot recover, so that a process supervisor restarts it.

        Otherwise the broken worker would keep its port and receive requests forever.
        """
        while self.backend.healthy:
            await asyncio.sleep(_WATCH_INTERVAL_S)
        log.error("The backend has failed and cannot recover. This process ends with code %d.", FAILED)
        await asyncio.gather(lifecycle.drain(_LAST_WORDS_S), asyncio.sleep(_SEEN_DEAD_S))
        logging.shutdown()
        end(FAILED)


def _check(request: GenerateRequest) -> None:
    """Checks what the types of the original's request do not express."""
    found, num_images = request.prompt.count(DEFAULT_IMAGE_TOKEN), len(request.images or ())
    if found != num_images:
        raise ImageTokenMismatch(
            f"the prompt has {found} {DEFAULT_IMAGE_TOKEN} markers, but {num_images} images were sent. "
            "Send one image per marker."
        )
    if len(request.prompt) > MAX_TEXT_CHARACTERS:
        raise InvalidField(f"the prompt has more than {MAX_TEXT_CHARACTERS} characters.", param="prompt")
    if request.max_new_tokens < 1:
        raise InvalidField("max_new_tokens must be at least 1.", param="max_new_tokens")


class _Record:
    """Keeps the metrics of one request, from its arrival on."""

    def __init__(self, metrics: Metrics):
        self.outcome = "internal"  # the outcome of a request that ends in an unexpected way
        self._metrics = metrics
        self._began_s = time.monotonic()
        self._first_s: float | None = None

    def saw(self, item: WorkerEvent) -> None:
        """Records an event."""
        if isinstance(item, KeepAlive):
            return
        now = time.monotonic()
        if self._first_s is None:
            self._first_s = now
            self._metrics.ttft_seconds.observe(now - self._began_s)
        if isinstance(item.event, Answer):
            answer = item.event
            self._metrics.prompt_tokens.inc(answer.num_prompt_tokens)
            self._metrics.image_tokens.inc(answer.num_image_tokens)
            self._metrics.generation_tokens.inc(answer.num_new_tokens)
            if answer.num_new_tokens > 1 and now > self._first_s:
                self._metrics.tpot_seconds.observe((now - self._first_s) / (answer.num_new_tokens - 1))

    def failed(self, error: LlavaError) -> None:
        """Records that the request failed."""
        self.outcome = error.code
        if self._first_s is None and (isinstance(error, TryAgain) or error.status < 500):
            self._metrics.rejected.labels(error.code).inc()

    def close(self, model: str) -> None:
        """Records the end of the request."""
        self._metrics.requests.labels(model, self.outcome).inc()
        self._metrics.e2e_seconds.observe(time.monotonic() - self._began_s)
