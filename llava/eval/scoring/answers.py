"""Matches answers with the questions of a benchmark and reports what is odd about them.

No answer is dropped silently: questions without an answer, duplicate answers, answers that match no question, and
answers that cannot be interpreted are counted and listed by id.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava.errors import DataError
from llava.eval.data.records import Joined, some

COUNTED_WRONG = "counted as wrong"


@dataclass(frozen=True)
class BenchmarkAnswers:
    """The answers of a file to the questions of a benchmark."""

    path: Path
    """The file of the answers."""
    texts: dict[str, str]
    """Answers by question id, in the order of the questions; questions without an answer are not in it."""
    missing: list[str]
    """Ids of questions without an answer."""
    duplicate: list[str]
    """Ids of questions with several answers, of which the last one counts."""
    unknown: list[str]
    """Ids of answers that match no question."""
    model: str | None = None
    """Name of the model, as recorded in the first answer."""


def answers_to(questions: Collection[str], found: Joined, *, source: str | Path) -> BenchmarkAnswers:
    """Selects the answers to the questions and lists what is odd about them.

    Args:
        questions: ids of the questions, in order.
        found: all answers of a file.
        source: the file of the questions, for error messages.

    Raises:
        DataError: no answer matches a question, or an answer has no text.
    """
    known = set(questions)
    unknown = [identity for identity in found.lines if identity not in known]
    if len(unknown) == len(found.lines):
        raise DataError(
            f"{found.path}: none of the {len(unknown)} answers matches a question in {source} "
            f"(the first answer has the id {unknown[0]}). Do the files belong to the same benchmark and split?"
        )
    texts = {identity: found.text(identity, "text") for identity in questions if identity in found.lines}
    missing = [identity for identity in questions if identity not in found.lines]
    duplicate = [identity for identity in found.duplicates if identity in known]
    first = next(iter(found.lines.values())).record.get("model_id")
    return BenchmarkAnswers(found.path, texts, missing, duplicate, unknown, first if isinstance(first, str) else None)


def warn(
    answers: BenchmarkAnswers,
    unclear: Sequence[str] = (),
    *,
    missing: str = COUNTED_WRONG,
    unclear_are: str = "answers that could not be interpreted",
    unclear_become: str = COUNTED_WRONG,
) -> None:
    """Prints on standard error what is odd about the answers, and how it is treated.

    Args:
        answers: the answers.
        unclear: ids of answers that could not be interpreted.
        missing: how questions without an answer are treated.
        unclear_are: what the answers in `unclear` are, in words.
        unclear_become: how they are treated.
    """
    for what, treatment, ids in (
        ("questions without an answer", missing, answers.missing),
        ("questions with more than one answer", "the last answer counts", answers.duplicate),
        ("answers that match no question", "ignored", answers.unknown),
        (unclear_are, unclear_become, unclear),
    ):
        if ids:
            print(f"warning: {answers.path}: {what}: {len(ids)} ({treatment}): {some(ids)}", file=sys.stderr)


def warn_of_duplicates(found: Joined) -> None:
    """Prints on standard error which questions have several answers; for commands that have no question file."""
    warn(BenchmarkAnswers(found.path, {}, [], found.duplicates, []))


def require_all(answers: BenchmarkAnswers) -> None:
    """Checks that every question has an answer, as a submission requires.

    Raises:
        DataError: answers are missing; lists the questions.
    """
    if answers.missing:
        raise DataError(
            f"{answers.path}: questions without an answer: {len(answers.missing)} ({some(answers.missing)}). "
            "A submission must be complete: answer the remaining questions, then convert again."
        )
