"""One request on its way through the engine, and who wants to hear of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llava.engine.image_table import Run
from llava.engine.request import Request
from llava.errors import LlavaError
from llava.text_generation.answer_text import AnswerText
from llava.text_generation.settings import MAX_SEED, Answer, Piece, Sampling, Timings

Event = Piece | Answer | LlavaError
Sink = Callable[[Event], None]
"""Called from the engine's threads: must be quick, and may not raise."""


@dataclass(eq=False)
class Ticket:
    """The engine's own view of a request. Only the engine's thread changes it, but for `cancelled`."""

    number: int
    request: Request
    sink: Sink
    created: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    """Nobody listens any more."""
    done: bool = False

    prompt: list[int] = field(default_factory=list)
    """Token ids, images as virtual ids."""
    num_image_tokens: int = 0
    encoding_s: float = 0.0
    max_new_tokens: int = 0
    """What was asked, or what the context leaves."""
    runs: list[Run] = field(default_factory=list)

    tokens: list[int] = field(default_factory=list)
    """All generated so far."""
    tokens_before: int = 0
    """Those of them that the present manager was given as part of the prompt."""
    life: int = 0
    """How often it was handed to a manager."""
    deaths: int = 0
    """Managers that ended while this request was in them."""
    text: AnswerText | None = None
    sampling: Sampling = field(default_factory=Sampling)
    """The request's, with a seed drawn where it has none."""
    started: float | None = None
    first_token: float | None = None

    @property
    def manager_id(self) -> str:
        """What the manager knows it by; another after each death, so that late news of an old life is told apart."""
        return f"{self.number}.{self.life}"

    @staticmethod
    def number_of(manager_id: str) -> int:
        """Whose `manager_id` this is, in any of its lives."""
        return int(manager_id.partition(".")[0])

    @property
    def num_tokens_at_most(self) -> int:
        """Tokens in the cache when the answer is as long as it may get."""
        return len(self.prompt) + self.max_new_tokens

    def open_text(self, tokenizer: Any) -> None:
        """Prepares for tokens."""
        asked = self.request.sampling
        seed = random.randrange(MAX_SEED) if asked.seed is None else asked.seed
        self.sampling = Sampling(
            asked.temperature, asked.top_p, asked.num_beams, asked.max_new_tokens, asked.top_k, seed
        )
        self.text = AnswerText(tokenizer, self.request.stop, self.request.prefixes, self._emit)

    def take(self, tokens: Sequence[int]) -> bool:
        """Takes all tokens of the present life; true once a stop text has ended the answer."""
        assert self.text is not None
        self.tokens[self.tokens_before :] = tokens
        if self.first_token is None and self.tokens:
            self.first_token = time.monotonic()
        self.text.update(self.tokens)
        return self.text.stopped

    def answer(self, end_ids: Sequence[int]) -> Answer:
        """Hands on the rest of the text; returns the answer."""
        assert self.text is not None
        self.text.finish()
        ended = self.text.stopped or bool(self.tokens and self.tokens[-1] in end_ids)
        reason: Literal["stop", "length"] = "stop" if ended else "length"
        num_tokens = (len(self.prompt), len(self.tokens), self.num_image_tokens)
        return Answer(self.text.text, reason, *num_tokens, self.timings())

    def timings(self) -> Timings:
        """Up to now."""
        now = time.monotonic()
        started, first = self.started or now, self.first_token or now
        return Timings(started - self.created, first - self.created, now - self.created, self.encoding_s)

    def close(self, event: Answer | LlavaError | None) -> None:
        """Ends the request with its answer, an error, or (None) silently."""
        self.done = True
        self.text = None  # it knows the ticket, too: together they would keep the images until a garbage collection
        if event is not None and not self.cancelled:
            self.sink(event)

    def _emit(self, text: str) -> None:
        if not self.cancelled:
            self.sink(Piece(text, len(self.tokens)))
