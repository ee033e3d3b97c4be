"""What is asked of a generation and what comes back: settings, pieces of text, the answer. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from llava.errors import InvalidRequest

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.2
    """0 is greedy; at most 2."""
    top_p: float | None = None
    """Keep the most likely tokens that together have this probability."""
    num_beams: int = 1
    """More than 1 searches instead of streaming."""
    max_new_tokens: int = 512
    """Tokens, not characters; prompt and images not counted."""
    top_k: int | None = None
    """Keep this many of the most likely tokens."""
    seed: int | None = None
    """Makes the same request give the same answer, whatever else is being answered; None draws one."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 2):
            raise InvalidRequest(f"temperature is {self.temperature}; it must be between 0 and 2.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidRequest(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidRequest(f"top_k is {self.top_k}; it must be at least 1, or left out.")
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise InvalidRequest("max_new_tokens and num_beams must be at least 1.")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise InvalidRequest(f"seed is {self.seed}; it must be between 0 and {MAX_SEED}.")

    def as_generate_options(self) -> dict[str, Any]:
        """The same settings as keywords of transformers' `generate`, the seed aside."""
        options: dict[str, Any] = {"num_beams": self.num_beams, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or 0}
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True)
class Piece:
    """A piece of an answer that is still being written; the pieces together are the answer's text."""

    text: str
    num_new_tokens: int
    """Tokens generated so far, all pieces together."""


@dataclass(frozen=True)
class Timings:
    """Seconds, measured from the moment a request was handed in."""

    started_s: float = 0.0
    """Its tokens went to the model; before that it waited, or its images were encoded."""
    first_token_s: float = 0.0
    total_s: float = 0.0
    encoding_s: float = 0.0
    """Spent on images before that; next to nothing for those that were encoded already."""


@dataclass(frozen=True)
class Answer:
    """A finished answer."""

    text: str
    finish_reason: Literal["stop", "length"]
    """Whether the model ended by itself, or ran into the limit of tokens."""
    num_prompt_tokens: int
    """Images counted by their features."""
    num_new_tokens: int
    num_image_tokens: int = 0
    """Those of the prompt's tokens that are features of images."""
    timings: Timings = Timings()
