"""Words the hints after an answer: what cut it short, and what the user can do about it or about an error."""

from __future__ import annotations

from typing import Final, Literal

from llava.errors import LlavaError
from llava.serve.client.answer_settings import AnswerSettings
from llava.serve.client.conversation import AnswerStatistics

_QUESTION_AT_FAULT: Final = frozenset({400, 413, 415, 422})
"""Statuses of errors that the same question would meet again."""
_SHORTEN: Final = "/clear starts a new conversation, /undo and /drop shorten this one."


def is_at_fault(error: LlavaError | None) -> bool:
    """Whether an error means that the question itself cannot be answered, by whichever model and at any time."""
    return error is not None and error.status in _QUESTION_AT_FAULT


def after_error(error: LlavaError, *, first: bool, taken_back: bool) -> str:
    """Returns what the user can do here; it follows the error's own message.

    Args:
        first: whether this is the conversation's first question.
        taken_back: whether the question was removed from the conversation.
    """
    if not taken_back:
        return "/edit changes the question, /undo removes it." if is_at_fault(error) else "/retry asks again."
    hint = "The question was not added to the conversation. Up recalls its text; its images are kept for the next one."
    if error.code == "context_length_exceeded" and not first:
        return f"{hint} {_SHORTEN}"
    return hint


def cut_by(statistics: AnswerStatistics, settings: AnswerSettings) -> Literal["max_tokens", "context", ""]:
    """Returns which limit cut an answer; empty for an answer that is complete."""
    if statistics.finish_reason != "length":
        return ""
    if statistics.new_tokens is None or statistics.new_tokens >= settings.max_tokens:
        return "max_tokens"
    return "context"


def after_cut(statistics: AnswerStatistics, settings: AnswerSettings) -> str:
    """Returns which limit cut an answer and what to do about it; empty for an answer that is complete."""
    cause = cut_by(statistics, settings)
    if cause == "max_tokens":
        remedy = f"/set max_tokens={2 * settings.max_tokens} and then /retry give it more room."
        return f"The answer was cut at {settings.max_tokens} tokens. {remedy}"
    if cause == "context":
        total = (statistics.prompt_tokens or 0) + (statistics.new_tokens or 0)
        return f"The answer was cut because the model's context of {total} tokens is full. {_SHORTEN}"
    return ""
