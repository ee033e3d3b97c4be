"""Shows the progress of a run, and reports its outcome."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llava.errors import DataError, LlavaError
from llava.eval.answering.settings import RunSettings
from llava.eval.answering.torchrun import TorchrunProcess
from llava.eval.data.questions import Question, note
from llava.eval.data.records import some

if TYPE_CHECKING:
    from tqdm import tqdm

_NUM_LISTED = 5
"""Number of failed questions that a message lists."""
_LOG_EVERY_S = 20.0
"""Seconds between two lines of progress if standard error is not a terminal."""


@dataclass
class AnsweringOutcome:
    """What became of the questions of this process."""

    num_before: int = 0
    """Number of questions that an earlier run answered."""
    answered: list[Question] = field(default_factory=list)
    """Questions that this run answered."""
    empty: list[Question] = field(default_factory=list)
    """Those with an empty answer."""
    cut: list[Question] = field(default_factory=list)
    """Those whose answer was cut off at the token limit."""
    failed: list[tuple[Question, LlavaError]] = field(default_factory=list)
    """Questions without an answer, and why."""
    seconds: float = 0.0
    """Time spent answering, in seconds."""


def progress_bar(num_before: int, num_left: int, process: TorchrunProcess) -> tqdm[Any]:
    """Returns a progress bar on standard error; only the first process shows it."""
    from tqdm import tqdm

    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=num_before + num_left,
        initial=num_before,
        desc="answering" if process.size == 1 else f"answering, process 1 of {process.size}",
        unit=" questions",
        mininterval=0.5 if on_terminal else _LOG_EVERY_S,
        ncols=None if on_terminal else 100,
        smoothing=0.05,
        file=sys.stderr,
        disable=not process.is_first,
    )


def listed(failed: Sequence[tuple[Question, LlavaError]]) -> str:
    """Returns the first questions that failed with their errors, and the number of the others."""
    first = "; ".join(f"{question.place}: {str(error).rstrip('.')}" for question, error in failed[:_NUM_LISTED])
    return f"{first}; and {len(failed) - _NUM_LISTED} more" if len(failed) > _NUM_LISTED else first


def report(settings: RunSettings, outcome: AnsweringOutcome, num_questions: int, process: TorchrunProcess) -> None:
    """Prints what was done.

    Args:
        settings: the settings of the run.
        outcome: what became of the questions.
        num_questions: number of questions of this process's share.
        process: this process among those of the run.

    Raises:
        DataError: questions have no answer.
    """
    summary = f"{settings.answers_file}: {outcome.num_before + len(outcome.answered)} answers"
    if outcome.num_before:
        summary += f", {outcome.num_before} of them from an earlier run"
    if outcome.answered:
        summary += f"; {len(outcome.answered) / outcome.seconds:.2f} questions/s"
    if process.size > 1:
        summary += f", process {process.rank + 1} of {process.size}"
    print(summary, flush=True)
    for found, what in ((outcome.empty, "answers are empty"), (outcome.cut, "answers were cut at --max-new-tokens")):
        if found:
            note(f"{len(found)} {what}: questions {some([question.key[0] for question in found])}")
    if not outcome.failed:
        return
    count = f"{len(outcome.failed)} of {num_questions} questions"
    if settings.skip_unanswerable:
        note(f"skipped {count}: {listed(outcome.failed)}")
        return
    raise DataError(
        f"{count} have no answer: {listed(outcome.failed)}. The other answers are saved. Run the same command to "
        "answer the rest, or pass --skip-unanswerable to skip it."
    )
