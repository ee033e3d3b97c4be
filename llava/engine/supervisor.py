"""Keeps requests running on a batching manager, across the manager's crashes.

A manager crashes with the first exception of a step, and loses all its requests. The supervisor then starts a new
manager and resubmits every unfinished request with the tokens generated so far, so that streams continue. To find the
request that caused the crash, it resubmits the requests that were running one at a time: each runs alone, on trial,
until its next token. A request that is on trial during another crash fails.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from llava.engine.batcher import Batcher, Progress
from llava.engine.commands import EngineCommand, StepReported
from llava.engine.failures import as_error, logits_not_finite
from llava.engine.request_state import RequestState
from llava.engine.settings import BatchSettings
from llava.engine.steps_after_cancel import StepsAfterCancel
from llava.errors import EngineFailed, LlavaError
from llava.text_generation.answer_events import Answer

logger = logging.getLogger(__name__)

_MAX_CRASHES = 5
"""Number of crashes after which a request that was running fails, even if another request may be the cause."""

_WORTH_WAITING_FOR = 64
"""Length of a common prefix, in tokens, from which the second request waits until the first has read it."""


class Supervisor:
    """Owns the manager and its running requests. Its methods belong to one thread, except for `cancel`."""

    def __init__(
        self,
        model: Any,
        settings: BatchSettings,
        end_ids: Sequence[int],
        *,
        post: Callable[[EngineCommand], None],
        on_end: Callable[[RequestState, Answer | LlavaError], None],
    ):
        """
        Args:
            post: receives a `StepReported` after each step, on the manager's thread; pass it on to `progressed`.
            on_end: called when a request has all its tokens or has failed, on the supervisor's thread.

        Raises:
            OutOfMemory, EngineFailed: the device cannot hold the cache, or the manager does not start.
        """
        self.steps = StepsAfterCancel()
        self.num_crashes = 0
        self.cache_tokens = 0
        """Size of the cache in tokens, for all running requests together."""
        self._model = model
        self._settings = settings
        self._end_ids = end_ids
        self._num_broken = 0
        self._doubtful: set[int] = set()
        self._post = post
        self._on_end = on_end
        self._running: dict[str, RequestState] = {}
        self._suspects: deque[RequestState] = deque()
        self._on_trial: RequestState | None = None
        self._last_progress = time.monotonic()
        self._batcher = self._start()

    @property
    def num_running(self) -> int:
        """Number of requests on the manager."""
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        """Whether no request is running or waits to be resubmitted."""
        return not (self._running or self._suspects)

    @property
    def silence_s(self) -> float:
        """Seconds since the last progress, or 0 if nothing is running."""
        return time.monotonic() - self._last_progress if self._running else 0.0

    def has_room_for(self, state: RequestState) -> bool:
        """Returns whether a request may begin: none is on trial, and the cache holds all answers at their longest."""
        if self._on_trial is not None or self._suspects or len(self._running) >= self._settings.max_running:
            return False
        held = sum(other.max_cache_tokens for other in self._running.values())
        return not self._running or held + state.max_cache_tokens <= self.cache_tokens

    def is_being_read(self, prompt: Sequence[int]) -> bool:
        """Returns whether a request that has no token yet begins like `prompt`.

        A prompt that waits for that request's first token finds the common prefix in the cache; a prompt that does not
        wait computes it again.
        """
        return any(
            other.waits_for_first_token and _common_prefix(other.prompt, prompt) >= _WORTH_WAITING_FOR
            for other in self._running.values()
        )

    def begin(self, state: RequestState) -> None:
        """Submits a request to the manager, together with the tokens it already has."""
        state.num_submissions += 1
        state.num_tokens_before = len(state.tokens)
        state.started = state.started or time.monotonic()
        if not self._running:
            self._last_progress = time.monotonic()
        self._running[state.manager_id] = state
        accepted = self._batcher.submit(
            state.manager_id,
            state.prompt + state.tokens,
            state.max_new_tokens - len(state.tokens),
            (*self._end_ids, *state.end_ids),
            state.sampling,
        )
        if not accepted:
            self._recover()

    def cancel(self, state: RequestState) -> None:
        """Makes the manager end a request at once. May be called on any thread; `drop` must follow.

        The engine's thread may be busy, and every step until it gets to the request would be wasted.
        """
        self.steps.cancelled(state.number)
        self._batcher.cancel(state.manager_id)

    def drop(self, state: RequestState) -> None:
        """Forgets a request. The manager spends no more than its current step on it."""
        if self._running.get(state.manager_id) is state:
            del self._running[state.manager_id]
            self._batcher.cancel(state.manager_id)
        if state in self._suspects:
            self._suspects.remove(state)
        self._acquit(state)

    def progressed(self, batcher: Batcher, progress: Sequence[Progress]) -> None:
        """Handles the manager's report about a step."""
        if batcher is not self._batcher:
            return
        self._last_progress = time.monotonic()
        for one in progress:
            state = self._running.get(one.request_id)
            if state is None:
                continue
            if one.error is not None and batcher.crash is not None:
                self._recover()
                return
            if one.error is not None:
                self.drop(state)
                self._on_end(state, EngineFailed(f"the model could not take this request: {one.error}"))
                continue
            if one.tokens:
                self._acquit(state)  # it got past the place where the manager crashed
            if state.take(one.tokens) or one.finished:
                self.drop(state)
                self._on_end(state, self._result(state))

    def _result(self, state: RequestState) -> Answer | LlavaError:
        """Returns the answer of a request, or the error of one whose logits were NaN or infinite."""
        if self._batcher.num_broken > self._num_broken:
            # The count does not say whose logits they were, so whoever ran at the time is looked at.
            self._num_broken = self._batcher.num_broken
            self._doubtful = {state.number, *(other.number for other in self._running.values())}
        if state.number in self._doubtful:
            self._doubtful.remove(state.number)
            if not self._last_logits_are_finite(state):
                return logits_not_finite(self._model)
        return state.finish((*self._end_ids, *state.end_ids))

    @torch.no_grad()
    def _last_logits_are_finite(self, state: RequestState) -> bool:
        """Computes the last token's logits again, alone."""
        ids = torch.tensor([state.prompt + state.tokens[:-1]], device=self._model.device)
        logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return bool(logits.amax().isfinite())

    def restart(self) -> None:
        """Replaces the manager by one with an empty cache. Allowed only when idle."""
        assert self.is_idle
        self._batcher.stop()
        self._batcher = self._start()

    def stop(self) -> None:
        """Ends the manager."""
        self._batcher.stop()

    def _start(self) -> Batcher:
        """Creates a manager and waits until it has its cache."""
        end_id = self._end_ids[0] if self._end_ids else 0
        batcher = Batcher(self._model, self._settings, self._report, self._step_begins, end_id=end_id)
        self._num_broken = 0
        while (cache_tokens := batcher.cache_tokens) is None:
            if batcher.crash is not None:
                batcher.wait_for_end(5)
                error = batcher.crash
                batcher.stop()
                raise as_error(error)
            time.sleep(0.002)
        self.cache_tokens = cache_tokens
        self._last_progress = time.monotonic()
        return batcher

    def _report(self, batcher: Batcher, progress: list[Progress]) -> None:
        """Runs on the manager's thread after each step."""
        self._post(StepReported(batcher, progress))

    def _step_begins(self, manager_ids: Sequence[str]) -> None:
        """Runs on the manager's thread before each step."""
        self.steps.begins(map(RequestState.number_of, manager_ids))

    def _acquit(self, state: RequestState) -> None:
        if self._on_trial is state:
            self._on_trial = None
            self._try_next()

    def _try_next(self) -> None:
        if self._on_trial is None and self._suspects:
            self._on_trial = self._suspects.popleft()
            self.begin(self._on_trial)

    def _recover(self) -> None:
        """Replaces a crashed manager and resubmits its requests one by one."""
        self._batcher.wait_for_end(30)
        error = self._batcher.crash or RuntimeError("the batching manager stopped")
        logger.warning("The batching manager crashed with %d running requests: %s", len(self._running), error)
        self.num_crashes += 1
        present = list(self._running.values())
        crashed_alone_again = present[0] if len(present) == 1 and present[0].num_crashes else None
        culprit = self._on_trial or crashed_alone_again
        self._running.clear()
        self._on_trial = None
        for state in present:
            state.num_crashes += 1
        given_up = [state for state in present if state is culprit or state.num_crashes >= _MAX_CRASHES]
        self._suspects.extendleft(state for state in reversed(present) if state not in given_up)
        self._batcher.stop()
        self._batcher = self._start()
        for state in given_up:
            self._on_end(state, as_error(error))
        self._try_next()


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns the number of tokens with which both prompts begin."""
    shortest = min(len(one), len(other))
    if one[:shortest] == other[:shortest]:
        return shortest
    return next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
