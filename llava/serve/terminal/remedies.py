"""What to say after an answer: why it ended where it did, and what can be done about it here."""

from __future__ import annotations

from typing import Final, Literal

from llava.errors import LlavaError
from llava.serve.client.conversation import AnswerSettings, Figures

_AT_FAULT = frozenset({400, 413, 415, 422})
"""Statuses of errors that the same question would meet again."""


_SHORTEN: Final = "/clear begins a new conversation, /undo and /drop shorten this one."


def is_at_fault(error: LlavaError | None) -> bool:
    """Whether an error means that the question cannot be answered as it is, whoever is asked and whenever."""
    return error is not None and error.status in _AT_FAULT


def remedy(error: LlavaError, *, first: bool, taken_back: bool) -> str:
    """What the user can do here, after the error's own sentence.

    Args:
        first: nothing was asked before.
        taken_back: the question is no longer part of the conversation.
    """
    if not taken_back:
        return "/edit changes the question, /undo takes it back." if is_at_fault(error) else "/retry asks again."
    back = "The question is taken back: Up brings its text, its images wait."
    if error.code == "context_length_exceeded" and not first:
        return f"{back} {_SHORTEN}"
    return back


def cut_by(figures: Figures, settings: AnswerSettings) -> Literal["max_tokens", "context", ""]:
    """Which limit cut an answer; empty for one that ended by itself."""
    if figures.finish_reason != "length":
        return ""
    return "max_tokens" if figures.new_tokens is None or figures.new_tokens >= settings.max_tokens else "context"


def limit_reached(figures: Figures, settings: AnswerSettings) -> str:
    """What to say about a limit that cut an answer, and what to do; empty for one that ended by itself."""
    cause = cut_by(figures, settings)
    if cause == "max_tokens":
        more = f"/set max_tokens={2 * settings.max_tokens} and /retry give it more room."
        return f"The answer was cut at {settings.max_tokens} tokens. {more}"
    if cause == "context":
        total = (figures.prompt_tokens or 0) + (figures.new_tokens or 0)
        return f"The answer was cut: the model's context of {total} tokens is full. {_SHORTEN}"
    return ""
