"""Tracks one request on its way through the engine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llava.engine.image_table import IdRun
from llava.engine.request import Request
from llava.errors import LlavaError
from llava.text_generation.answer_events import Answer, AnswerEvent, Failure, FinishReason, Piece, Timings
from llava.text_generation.answer_text import AnswerText, control_ids
from llava.text_generation.settings import MAX_SEED, Sampling

EngineEvent = AnswerEvent | Failure
Sink = Callable[[EngineEvent], None]
"""Receives the events of a request on the engine's threads. It must return quickly and must not raise."""


@dataclass(eq=False)
class RequestState:
    """The engine's view of a request. Only the engine's thread changes it, except for `cancelled`."""

    number: int
    """A number that is unique in this engine."""
    request: Request
    sink: Sink
    created: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    """True once nobody waits for the answer any more."""
    done: bool = False
    """True once the request has ended, in whatever way."""

    prompt: list[int] = field(default_factory=list)
    """Token ids, with images as virtual ids."""
    num_image_tokens: int = 0
    encoding_s: float = 0.0
    """Seconds spent on encoding the images."""
    max_new_tokens: int = 0
    """The requested number of tokens, or what the context leaves."""
    runs: list[IdRun] = field(default_factory=list)
    """The virtual ids that the request holds in the image table."""

    tokens: list[int] = field(default_factory=list)
    """All tokens generated so far."""
    num_tokens_before: int = 0
    """Number of these tokens that the current manager received as part of the prompt."""
    num_submissions: int = 0
    """Number of times the request was handed to a manager."""
    num_crashes: int = 0
    """Number of managers that crashed while this request was running."""
    text: AnswerText | None = None
    end_ids: tuple[int, ...] = ()
    """Tokens that end the answer, beside those of the model: stop texts that are control tokens."""
    sampling: Sampling = field(default_factory=Sampling)
    """The requested sampling, with a seed drawn if the request has none."""
    started: float | None = None
    first_token: float | None = None

    @property
    def manager_id(self) -> str:
        """The id under which the manager knows the request. It changes with each submission, so that late progress
        reports of an earlier one are told apart."""
        return f"{self.number}.{self.num_submissions}"

    @staticmethod
    def number_of(manager_id: str) -> int:
        """Returns the number of the request with this `manager_id`, whichever submission it belongs to."""
        return int(manager_id.partition(".")[0])

    @property
    def max_cache_tokens(self) -> int:
        """Number of cache tokens that the request occupies if its answer gets as long as allowed."""
        return len(self.prompt) + self.max_new_tokens

    @property
    def waits_for_first_token(self) -> bool:
        """Whether the current manager has not reported a token yet."""
        return len(self.tokens) == self.num_tokens_before

    def begin_text(self, tokenizer: Any) -> None:
        """Prepares the state for tokens."""
        asked = self.request.sampling
        self.sampling = replace(asked, seed=random.randrange(MAX_SEED) if asked.seed is None else asked.seed)
        self.text = AnswerText(tokenizer, self.request.stop, self.request.prefixes, self.emit)
        self.end_ids = control_ids(tokenizer, self.request.stop)

    def take(self, tokens: Sequence[int]) -> bool:
        """Takes all tokens of the current submission; returns True once a stop text has ended the answer."""
        assert self.text is not None
        self.tokens[self.num_tokens_before :] = tokens
        if self.first_token is None and self.tokens:
            self.first_token = time.monotonic()
        self.text.update(self.tokens)
        return self.text.stopped

    def finish(self, end_ids: Sequence[int]) -> Answer:
        """Emits the rest of the text and returns the answer."""
        assert self.text is not None
        self.text.finish()
        ended = self.text.stopped or bool(self.tokens and self.tokens[-1] in end_ids)
        reason: FinishReason = "stop" if ended else "length"
        num_tokens = (len(self.prompt), len(self.tokens), self.num_image_tokens)
        return Answer(self.text.text, reason, *num_tokens, self.timings())

    def timings(self) -> Timings:
        """Returns the durations up to now."""
        now = time.monotonic()
        started, first = self.started or now, self.first_token or now
        return Timings(started - self.created, first - self.created, now - self.created, self.encoding_s)

    def emit(self, piece: Piece) -> None:
        """Passes a piece of text to whoever waits for it."""
        if not self.cancelled:
            self.sink(piece)

    def close(self, result: Answer | LlavaError | None) -> None:
        """Ends the request with its answer, with an error, or silently (None)."""
        self.done = True
        self.text = None  # it refers to this state: the cycle would keep the images until a garbage collection
        if result is not None and not self.cancelled:
            self.sink(Failure(result) if isinstance(result, LlavaError) else result)
