"""Takes batched requests from their arrival to the batching manager.

Prepares requests on a thread of its own and begins each one when the manager has room for it. While it is open, the
model belongs to it: the model's token embedding knows virtual image ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from llava.engine.batcher import Batcher, Progress
from llava.engine.capacity import cache_tokens, end_ids, image_rows
from llava.engine.commands import EngineCommand, RequestPrepared
from llava.engine.failures import as_error
from llava.engine.image_table import IdsUsedUp, ImageEmbedding, ImageTable
from llava.engine.preparation import Preparation
from llava.engine.request_state import RequestState
from llava.engine.settings import EngineSettings
from llava.engine.supervisor import Supervisor
from llava.errors import ContextTooLong, LlavaError, ShuttingDown
from llava.text_generation.answer_events import Answer

PREPARED_AHEAD = 8
"""Number of requests prepared before there is room for them, so that the manager never waits for an image."""


class BatchQueue:
    """Belongs to the engine's thread, except where a method says otherwise."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        context_length: int,
        settings: EngineSettings,
        *,
        post: Callable[[EngineCommand], None],
        on_end: Callable[[RequestState, Answer | LlavaError], None],
    ):
        """
        Args:
            post: receives the commands of other threads for the engine's thread.
            on_end: called on the engine's thread when a request has its answer or has failed.

        Raises:
            OutOfMemory, EngineFailed: the device cannot hold the cache, or the manager does not start.
        """
        self._model = model
        self._tokenizer = tokenizer
        self._post = post
        self._on_end = on_end
        self._closing = False
        self._ids_used_up = False
        self._waiting: deque[RequestState] = deque()
        self._num_preparing = 0
        self._ready: deque[RequestState] = deque()

        text_embedding = model.get_input_embeddings()
        vocabulary = max(text_embedding.weight.shape[0], len(tokenizer))
        embedding = ImageEmbedding(text_embedding, vocabulary, settings.image_rows or image_rows(model, context_length))
        batch = settings.batch
        if batch.cache_tokens is None:
            batch = replace(batch, cache_tokens=cache_tokens(model, batch.max_running, context_length))
        self._max_running = batch.max_running
        self._text_embedding = text_embedding
        self._attention = model.config._attn_implementation
        model.set_input_embeddings(embedding)
        self.table = ImageTable(embedding)
        self._preparation = Preparation(model, tokenizer, image_processor, self.table, context_length)
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="llava-prepare")
        try:
            self.supervisor = Supervisor(model, batch, end_ids(model), post=post, on_end=on_end)
        except BaseException:
            self._give_back_model()
            raise

    def add(self, state: RequestState) -> None:
        """Queues a new request."""
        self._waiting.append(state)

    def advance(self) -> None:
        """Moves requests forward as far as there is room."""
        if self._ids_used_up and not (self._num_preparing or self._ready) and self.supervisor.is_idle:
            self._ids_used_up = False
            self.table.forget_all()
            self.supervisor.restart()
        ahead = max(PREPARED_AHEAD, self._max_running - self.supervisor.num_running)
        while self._waiting and not self._ids_used_up and self._num_preparing + len(self._ready) < ahead:
            self._num_preparing += 1
            self._preparer.submit(self._prepare, self._waiting.popleft())
        for state in list(self._ready):
            if not self.supervisor.has_room_for(state):
                break
            if not self.supervisor.is_being_read(state.prompt):
                self._ready.remove(state)
                self.supervisor.begin(state)

    def prepared(self, state: RequestState, error: LlavaError | None) -> None:
        """Takes a request back from the preparer."""
        self._num_preparing -= 1
        room = self.supervisor.cache_tokens - len(state.prompt)
        if state.done or state.cancelled:
            self._release(state)
        elif isinstance(error, IdsUsedUp):
            self._ids_used_up = True
            self._waiting.appendleft(state)
        elif error is not None:
            self._on_end(state, error)
        elif room < 1:
            self._on_end(state, ContextTooLong(len(state.prompt), self.supervisor.cache_tokens))
        else:
            state.max_new_tokens = min(state.max_new_tokens, room)
            state.begin_text(self._tokenizer)
            self._ready.append(state)

    def progressed(self, batcher: Batcher, progress: Sequence[Progress]) -> None:
        """Handles the manager's report about a step."""
        self.supervisor.progressed(batcher, progress)

    def cancel(self, state: RequestState) -> None:
        """Ends the manager's work on a request at once. May be called on any thread; `drop` must follow."""
        self.supervisor.cancel(state)

    def drop(self, state: RequestState) -> None:
        """Forgets a request and frees its images, wherever it is."""
        for place in (self._waiting, self._ready):
            if state in place:
                place.remove(state)
        self.supervisor.drop(state)
        self._release(state)

    def stop_preparing(self) -> None:
        """Ends the preparation in progress, if it waits for room in the image table. May be called on any thread."""
        self._closing = True
        self.table.close()

    def close(self) -> None:
        """Ends all work and gives the model back as it was. Called after the engine's thread has ended."""
        self._preparer.shutdown(cancel_futures=True)
        self.supervisor.stop()
        self._give_back_model()

    def _prepare(self, state: RequestState) -> None:
        """Runs on the preparer's thread."""
        error: LlavaError | None = None
        if self._closing:
            error = ShuttingDown("the engine is shutting down.")
        elif not (state.done or state.cancelled):
            try:
                self._preparation.prepare(state)
            except BaseException as caught:
                error = as_error(caught)
        self._post(RequestPrepared(state, error))

    def _release(self, state: RequestState) -> None:
        for run in state.runs:
            self.table.release(run)
        state.runs = []

    def _give_back_model(self) -> None:
        self._model.set_input_embeddings(self._text_embedding)
        self._model.set_attn_implementation(self._attention)
