"""Defines the events of an answer that is being written. Engine, worker, clients and pages all speak in these.

An answer is any number of `Piece` events and then one `Answer`. The texts of the pieces add up to the answer's text,
and their counts add up to its number of tokens. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of an answer's text."""

    text: str
    """May be empty, if the tokens have no text."""
    num_new_tokens: int
    """Tokens generated since the previous piece."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Durations in seconds, measured from the moment when the request was submitted."""

    started_s: float = 0.0
    """Until the model received the prompt; before that the request waited, or its images were encoded."""
    first_token_s: float = 0.0
    """Until the first token was generated."""
    total_s: float = 0.0
    """Until the answer was complete."""
    encoding_s: float = 0.0
    """Time spent on encoding the images; close to 0 for images that were encoded already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: the last event."""

    text: str
    finish_reason: FinishReason
    """`stop` if the model ended the answer or a stop text did, `length` if the token limit did."""
    num_prompt_tokens: int
    """Tokens of the prompt, counting each image feature as one."""
    num_new_tokens: int
    """Tokens generated."""
    num_image_tokens: int = 0
    """Tokens of the prompt that are image features."""
    timings: Timings = Timings()


AnswerEvent = Piece | Answer
AnswerEvents = AsyncGenerator[AnswerEvent, None]
"""Any number of `Piece`, then one `Answer`. Raises a `LlavaError` instead of the end. Closing it cancels the answer."""


class Failure:
    """An error on its way from the code that writes an answer to the caller, who raises it with `raise failure.take()`.

    Gives the error away only once. A raised error knows the frames that it passed; if one of those frames still knew
    the error, only a garbage collection would free them, and with them the images of the request.
    """

    def __init__(self, error: BaseException):
        self._error: BaseException | None = error

    def take(self) -> BaseException:
        """Returns the error and forgets it."""
        error, self._error = self._error, None
        assert error is not None
        return error


class ServerAnswer:
    """Builds the events of an answer that another server streams as text, with its token counts only at the end."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._num_counted = 0

    def piece(self, text: str, num_new_tokens: int = 0) -> Piece:
        """Returns the event for the next piece of text, with its number of tokens as far as it is known."""
        self._texts.append(text)
        self._num_counted += num_new_tokens
        return Piece(text, num_new_tokens)

    def end(
        self, finish_reason: FinishReason, num_prompt_tokens: int = 0, num_new_tokens: int | None = None
    ) -> list[AnswerEvent]:
        """Returns the last events: a piece with the tokens not counted so far, if any, then the answer.

        Args:
            num_new_tokens: the server's own count of the answer's tokens; None keeps the count of the pieces.
        """
        total = self._num_counted if num_new_tokens is None else num_new_tokens
        answer = Answer("".join(self._texts), finish_reason, num_prompt_tokens, total)
        return [answer] if total == self._num_counted else [Piece("", total - self._num_counted), answer]
