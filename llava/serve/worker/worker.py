"""One worker: a backend, the permits before it, and the figures it keeps."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from llava.command_line import FAILED
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import ImageTokenMismatch, InvalidField, LlavaError, ModelNotFound, NotReady, ShuttingDown, TryAgain
from llava.serve.protocol.openai_requests import MAX_TEXT_CHARACTERS, ChatRequest
from llava.serve.protocol.original import GenerateRequest, WorkerStatus
from llava.serve.service.lifecycle import Lifecycle, cut_off_error
from llava.serve.service.metrics import Metrics
from llava.serve.worker.backend import Ask, Backend, Finished
from llava.serve.worker.choices import KEEP_ALIVE_S, ChoiceEvent, Events, KeepAlive, Mailbox, answer
from llava.serve.worker.permits import Permits

log = logging.getLogger(__name__)

DEFAULT_MAX_QUEUE: Final = 64
"""Answers that may wait for a permit."""
_WATCH_INTERVAL_S: Final = 0.25
_LAST_WORDS_S: Final = 3.0
_SEEN_DEAD_S: Final = 1.0


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
        self.backend = backend
        self.metrics = metrics
        self.permits: Permits | None = None
        """None until the backend is ready."""
        self.on_load_change: Callable[[], None] = lambda: None
        """Called when a request came or ended."""
        self.created = int(time.time())
        self._max_queue = max_queue
        self._stream_interval = stream_interval
        self._keep_alive_s = keep_alive_s
        self._open: set[Mailbox] = set()
        backend.observe(metrics)
        metrics.queue_depth.set_function(lambda: self.permits.waiting if self.permits else 0)
        metrics.running.set_function(lambda: self.permits.in_use if self.permits else 0)
        metrics.permits_in_use.set_function(lambda: self.permits.in_use if self.permits else 0)

    async def start(self) -> None:
        """Returns once the backend has answered a first question."""
        await self.backend.start()
        self.permits = Permits(self.backend.limit, self._max_queue, on_wait=self.metrics.queue_seconds.observe)

    async def close(self) -> None:
        self.permits = None
        await self.backend.close()

    def cut_off(self) -> None:
        """Ends all answers under way, each with an error that its client is told."""
        for mailbox in self._open:
            mailbox.put(cut_off_error())

    def status(self) -> WorkerStatus:
        """What the controller is told."""
        own = self.permits.queue_length if self.permits else 0
        return WorkerStatus(
            model_names=self.backend.names, speed=1, queue_length=min(own + self.backend.queue_length(), 1_000_000)
        )

    def trouble(self) -> str | None:
        """Why a request sent now would fail, None if it need not."""
        if self.permits is None:
            return "the model is being loaded"
        if not self.backend.healthy:
            return "the backend has failed"
        return None if self.backend.ready else "the backend is not ready"

    def legacy(self, request: GenerateRequest) -> Events:
        """The events of an answer to a flattened prompt."""

        async def prepare() -> Ask:
            _check(request)
            return await self.backend.legacy(request)

        return self._answer(request.model, prepare, 1)

    def chat(self, request: ChatRequest) -> Events:
        """The events of all choices of a chat completion."""
        return self._answer(request.model, lambda: self.backend.chat(request), request.num_choices)

    async def _answer(self, model: str, prepare: Callable[[], Awaitable[Ask]], num_choices: int) -> Events:
        record, mailbox = _Record(self.metrics), Mailbox()
        self._open.add(mailbox)
        try:
            if model not in self.backend.names:
                raise ModelNotFound(model, self.backend.names)
            if self.permits is None:
                raise NotReady("the model is still being loaded. Ask again in a moment.")
            events = answer(
                self.permits,
                prepare,
                mailbox,
                num_choices=num_choices,
                stream_interval=self._stream_interval,
                keep_alive_s=self._keep_alive_s,
            )
            self.on_load_change()
            async with aclosing(events):
                async for item in events:
                    record.saw(item)
                    yield item
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
            self._open.discard(mailbox)
            # A name that no model has would be a label that anybody may choose.
            record.close(model if model in self.backend.names else "unknown")
            self.on_load_change()

    async def watch(self, lifecycle: Lifecycle, end: Callable[[int], None] = os._exit) -> None:
        """Ends the process once the backend is beyond recovery, so that a supervisor starts it anew.

        A dead worker that goes on answering its port would get requests for ever.
        """
        while self.backend.healthy:
            await asyncio.sleep(_WATCH_INTERVAL_S)
        log.error("the backend has failed and cannot recover; this process ends with code %d", FAILED)
        await asyncio.gather(lifecycle.drain(_LAST_WORDS_S), asyncio.sleep(_SEEN_DEAD_S))
        logging.shutdown()
        end(FAILED)


def _check(request: GenerateRequest) -> None:
    """What the types of the original's request cannot say."""
    found, num_images = request.prompt.count(DEFAULT_IMAGE_TOKEN), len(request.images or ())
    if found != num_images:
        raise ImageTokenMismatch(
            f"the prompt has {found} {DEFAULT_IMAGE_TOKEN} markers, but {num_images} images were sent. "
            "Send one image a marker."
        )
    if len(request.prompt) > MAX_TEXT_CHARACTERS:
        raise InvalidField(f"the prompt has more than {MAX_TEXT_CHARACTERS} characters.", param="prompt")
    if request.max_new_tokens < 1:
        raise InvalidField("max_new_tokens must be at least 1.", param="max_new_tokens")


class _Record:
    """The figures of one request, from its arrival on."""

    def __init__(self, metrics: Metrics):
        self.outcome = "internal"  # what it remains if nothing better is known at the end
        self._metrics = metrics
        self._began_s = time.monotonic()
        self._first_s: float | None = None

    def saw(self, item: ChoiceEvent | KeepAlive) -> None:
        if isinstance(item, KeepAlive):
            return
        now = time.monotonic()
        if self._first_s is None:
            self._first_s = now
            self._metrics.ttft_seconds.observe(now - self._began_s)
        event = item[1]
        if isinstance(event, Finished):
            self._metrics.prompt_tokens.inc(event.num_prompt_tokens)
            self._metrics.image_tokens.inc(event.num_image_tokens)
            self._metrics.generation_tokens.inc(event.num_new_tokens)
            if event.num_new_tokens > 1 and now > self._first_s:
                self._metrics.tpot_seconds.observe((now - self._first_s) / (event.num_new_tokens - 1))

    def failed(self, error: LlavaError) -> None:
        self.outcome = error.code
        if self._first_s is None and (isinstance(error, TryAgain) or error.status < 500):
            self._metrics.rejected.labels(error.code).inc()

    def close(self, model: str) -> None:
        self._metrics.requests.labels(model, self.outcome).inc()
        self._metrics.e2e_seconds.observe(time.monotonic() - self._began_s)
