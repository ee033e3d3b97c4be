"""Answers one question: the answer goes to standard output, everything else to standard error."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from llava.command_line import DONE, FAILED
from llava.serve.terminal.hints import cut_by
from llava.serve.terminal.session import Session
from llava.serve.terminal.streaming import AnswerResult, show_answer, write_answer
from llava.serve.terminal.view import GrowingAnswer, make_console

Write = Callable[[Session], Awaitable[AnswerResult]]


async def ask_once(session: Session, question: str, write: Write) -> int:
    """Answers a question; returns the exit code.

    Args:
        write: one of the `write_` functions below.

    Raises:
        InvalidRequest: the question is empty.
        KeyboardInterrupt: Ctrl-C was pressed; what was written so far stays.
    """
    session.ask(question)
    result = await write(session)
    if result.stopped:
        raise KeyboardInterrupt
    if result.error is not None:
        print(f"error: {result.error}", file=sys.stderr)
        return FAILED
    if cause := cut_by(result.turn.statistics, session.settings):
        print(f"note: {_NOTES[cause].format(max_tokens=session.settings.max_tokens)}", file=sys.stderr)
    return DONE


_NOTES = {
    "max_tokens": "the answer was cut at {max_tokens} tokens (--max-new-tokens)",
    "context": "the answer was cut because the model's context is full",
}


async def write_plain(session: Session) -> AnswerResult:
    """Writes plain text, piece by piece."""
    written = 0

    def grow(text: str) -> None:
        nonlocal written
        sys.stdout.write(text[written:])
        sys.stdout.flush()
        written = len(text)

    result = await write_answer(session.source, session.chat, session.model, session.settings, grow)
    if written:
        print(flush=True)
    return result


async def write_markdown(session: Session) -> AnswerResult:
    """Writes Markdown for a terminal."""
    growing = GrowingAnswer(make_console())
    return await show_answer(session.source, session.chat, session.model, session.settings, growing)


async def write_json(session: Session) -> AnswerResult:
    """Writes one JSON object at the end, also for an answer that failed."""
    result = await write_answer(session.source, session.chat, session.model, session.settings, lambda text: None)
    print(json.dumps(as_object(result)), flush=True)
    return result


def as_object(result: AnswerResult) -> dict[str, Any]:
    """Returns what `--json` prints."""
    turn, error = result.turn, result.error
    statistics = dataclasses.asdict(turn.statistics)
    reason = statistics.pop("finish_reason")
    content = {"model": turn.model, "answer": turn.text, "finish_reason": reason, "figures": statistics}
    return content if error is None else {**content, "error": {"code": error.code, "message": str(error)}}
