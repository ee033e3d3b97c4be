"""Defines the sampling settings of a text generation. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llava.errors import InvalidRequest

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Sampling:
    """Says how tokens are chosen.

    Raises:
        InvalidRequest: a value is out of its range.
    """

    temperature: float = 0.2
    """Randomness of the choice, from 0 (greedy) to 2."""
    top_p: float | None = None
    """Samples only from the most likely tokens that together have this probability."""
    num_beams: int = 1
    """Number of beams; more than 1 searches instead of streaming."""
    max_new_tokens: int = 512
    """Longest answer, in tokens; prompt and images do not count."""
    top_k: int | None = None
    """Samples only from this many of the most likely tokens."""
    seed: int | None = None
    """Makes the same request give the same answer, whatever else is being answered; None draws a seed."""

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
        """Returns these settings as keywords of transformers' `generate`, without the seed."""
        options: dict[str, Any] = {"num_beams": self.num_beams, "do_sample": self.temperature > 0}
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k or 0}
        return {name: value for name, value in options.items() if value is not None}
