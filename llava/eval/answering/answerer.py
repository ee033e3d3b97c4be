"""Describes what answers the questions of an evaluation: a model in this process, or a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from llava.errors import LlavaError
from llava.eval.data.questions import Question


@dataclass(frozen=True)
class EvalAnswer:
    """The answer to a question."""

    text: str
    """The answer."""
    is_cut: bool = False
    """Whether the answer was cut off at the token limit."""


class Answerer(Protocol):
    """Answers questions: call `identify`, `open`, `answer` for many questions at once, `close`."""

    async def identify(self) -> tuple[str, dict[str, Any]]:
        """Returns the model's name and what distinguishes it and its settings; loads nothing heavy.

        Raises:
            LlavaError: there is no such model or server.
        """

    async def open(self) -> None:
        """Prepares for questions.

        Raises:
            LlavaError: the model cannot be loaded.
        """

    async def answer(self, question: Question) -> EvalAnswer:
        """Answers one question; many may be in progress at once.

        Raises:
            LlavaError: the question cannot be answered; see `is_hopeless`.
        """

    def is_hopeless(self, error: LlavaError) -> bool:
        """Returns whether an error of `answer` would occur for every other question too."""

    async def close(self) -> None:
        """Releases what `open` acquired."""
