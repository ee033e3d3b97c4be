"""Keeps requests running on a batching manager, over its deaths.

A manager dies with the first exception of a step, and all its requests with it. The supervisor starts another and
hands it every unfinished request with the tokens it had, so streams go on. So that the request which caused it is
found, those that were present come back one at a time, each alone on trial until its next token; one that is on trial
at another death fails.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from llava.engine.batcher import Batcher, BatchSettings, Progress
from llava.engine.request_state import Ticket
from llava.engine.steps_after_cancel import StepsAfterCancel
from llava.errors import EngineFailed, LlavaError, OutOfMemory

logger = logging.getLogger(__name__)

_MAX_DEATHS = 5
"""A request that was present at so many is given up, whoever was to blame."""


_WORTH_WAITING_FOR = 64
"""Tokens that two prompts have in common, so that the second had better wait until the first was read."""


class Supervisor:
    """Owns the manager and what runs on it. All methods belong to one thread, but for what they hand to `tell`."""

    def __init__(
        self,
        model: Any,
        settings: BatchSettings,
        end_ids: Sequence[int],
        *,
        tell: Callable[[Callable[[], None]], None],
        on_answered: Callable[[Ticket], None],
        on_failed: Callable[[Ticket, LlavaError], None],
        steps: StepsAfterCancel,
    ):
        """
        Args:
            tell: has a function called on the supervisor's thread.
            on_answered: a request has all its tokens.
            on_failed: a request will get no more.
            steps: told of each step.

        Raises:
            OutOfMemory, EngineFailed: the device cannot hold the cache, or the manager does not start.
        """
        self._model = model
        self._settings = settings
        self._end_ids = end_ids
        self._tell = tell
        self._on_answered = on_answered
        self._on_failed = on_failed
        self._steps = steps
        self._running: dict[str, Ticket] = {}
        self._suspects: deque[Ticket] = deque()
        self._on_trial: Ticket | None = None
        self.num_deaths = 0
        self.last_progress = time.monotonic()
        self.cache_tokens = 0
        """Tokens that the cache holds, those of all running requests together."""
        self._batcher = self._start()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        return not (self._running or self._suspects)

    def has_room_for(self, ticket: Ticket) -> bool:
        """Whether it may begin: nobody is on trial, and to the end of its answer it pushes nobody out of the cache."""
        if self._on_trial is not None or self._suspects or len(self._running) >= self._settings.max_running:
            return False
        held = sum(other.num_tokens_at_most for other in self._running.values())
        return not self._running or held + ticket.num_tokens_at_most <= self.cache_tokens

    def is_being_read(self, prompt: Sequence[int]) -> bool:
        """Whether a request that has no token yet begins like `prompt`.

        One that waits for its first token finds that beginning in the cache; one that does not computes it again.
        """
        return any(
            len(other.tokens) == other.tokens_before and _common_prefix(other.prompt, prompt) >= _WORTH_WAITING_FOR
            for other in self._running.values()
        )

    def begin(self, ticket: Ticket) -> None:
        """Hands a request to the manager, with the tokens that it has already."""
        ticket.life += 1
        ticket.tokens_before = len(ticket.tokens)
        ticket.started = ticket.started or time.monotonic()
        if not self._running:
            self.last_progress = time.monotonic()
        self._running[ticket.manager_id] = ticket
        accepted = self._batcher.submit(
            ticket.manager_id,
            ticket.prompt + ticket.tokens,
            ticket.max_new_tokens - len(ticket.tokens),
            self._end_ids,
            ticket.sampling,
        )
        if not accepted:
            self._recover()

    def cancel(self, ticket: Ticket) -> None:
        """Has the manager end a request at once, from any thread; `drop` follows.

        The engine's thread may have much to do before it comes to that, and each step meanwhile would be for nobody.
        """
        self._batcher.cancel(ticket.manager_id)

    def drop(self, ticket: Ticket) -> None:
        """Lets go of a request, wherever it is; the manager spends no more than the step it is in."""
        if self._running.get(ticket.manager_id) is ticket:
            del self._running[ticket.manager_id]
            self._batcher.cancel(ticket.manager_id)
        if ticket in self._suspects:
            self._suspects.remove(ticket)
        self._acquit(ticket)

    def restart(self) -> None:
        """A new manager with an empty cache. Only when idle."""
        assert self.is_idle
        self._batcher.stop()
        self._batcher = self._start()

    def stop(self) -> None:
        self._batcher.stop()

    def _start(self) -> Batcher:
        """Makes a manager and waits until it has its cache."""
        batcher = Batcher(
            self._model,
            self._settings,
            on_progress=lambda progress: self._tell(lambda: self._progressed(batcher, progress)),
            on_step=lambda manager_ids: self._steps.begins(map(Ticket.number_of, manager_ids)),
        )
        while (cache_tokens := batcher.cache_tokens) is None:
            if batcher.death is not None:
                batcher.wait_for_end(5)
                error = batcher.death
                batcher.stop()
                raise as_error(error)
            time.sleep(0.002)
        self.cache_tokens = cache_tokens
        self.last_progress = time.monotonic()
        return batcher

    def _progressed(self, batcher: Batcher, progress: Sequence[Progress]) -> None:
        if batcher is not self._batcher:
            return
        self.last_progress = time.monotonic()
        for one in progress:
            ticket = self._running.get(one.request_id)
            if ticket is None:
                continue
            if one.error is not None and batcher.death is not None:
                self._recover()
                return
            if one.error is not None:
                self.drop(ticket)
                self._on_failed(ticket, EngineFailed(f"the model could not take this request: {one.error}"))
                continue
            if one.tokens:
                self._acquit(ticket)  # it got past the place where the manager died
            if ticket.take(one.tokens) or one.finished:
                self.drop(ticket)
                self._on_answered(ticket)

    def _acquit(self, ticket: Ticket) -> None:
        if self._on_trial is ticket:
            self._on_trial = None
            self._try_next()

    def _try_next(self) -> None:
        if self._on_trial is None and self._suspects:
            self._on_trial = self._suspects.popleft()
            self.begin(self._on_trial)

    def _recover(self) -> None:
        """After the manager's death: another one, and its requests one by one."""
        self._batcher.wait_for_end(30)
        error = self._batcher.death or RuntimeError("the batching manager stopped")
        logger.warning("the batching manager died with %d requests: %s", len(self._running), error)
        self.num_deaths += 1
        present = list(self._running.values())
        alone_again = present[0] if len(present) == 1 and present[0].deaths else None
        blamed = self._on_trial or alone_again
        self._running.clear()
        self._on_trial = None
        for ticket in present:
            ticket.deaths += 1
        given_up = [ticket for ticket in present if ticket is blamed or ticket.deaths >= _MAX_DEATHS]
        self._suspects.extendleft(ticket for ticket in reversed(present) if ticket not in given_up)
        self._batcher.stop()
        self._batcher = self._start()
        for ticket in given_up:
            self._on_failed(ticket, as_error(error))
        self._try_next()


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    longest = min(len(one), len(other))
    if one[:longest] == other[:longest]:
        return longest
    return next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def as_error(error: BaseException) -> LlavaError:
    """What a user is told of an exception from the model; one that nobody foresaw is logged with its traceback."""
    if isinstance(error, LlavaError):
        return error
    text = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "memory" in text.lower():
        return OutOfMemory(
            f"the device has not enough memory for this request ({text.splitlines()[0] if text else 'out of memory'}). "
            "Give fewer or smaller images, a shorter prompt, or ask for fewer tokens."
        )
    logger.error("the model failed on a request", exc_info=error)
    return EngineFailed(f"the model failed on this request: {type(error).__name__}: {text}")
