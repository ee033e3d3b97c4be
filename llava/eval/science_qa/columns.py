"""Computes the nine columns of the published ScienceQA tables, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llava.eval.science_qa.dataset import Problem
from llava.reports.document import Column, Table, number
from llava.reports.rendering import table_as_text


@dataclass(frozen=True, slots=True)
class ScienceQaColumn:
    """The result of one column of the published tables."""

    name: str
    num_questions: int
    num_correct: int

    @property
    def accuracy(self) -> float | None:
        """Accuracy in percent; None without questions."""
        return self.num_correct / self.num_questions * 100 if self.num_questions else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the accuracy in percent, for independent questions; None without questions."""
        if not self.num_questions:
            return None
        share = self.num_correct / self.num_questions
        return math.sqrt(share * (1 - share) / self.num_questions) * 100


COLUMNS: dict[str, Callable[[Problem], bool]] = {
    "NAT": lambda problem: problem.subject == "natural science",
    "SOC": lambda problem: problem.subject == "social science",
    "LAN": lambda problem: problem.subject == "language science",
    "TXT": lambda problem: problem.hint != "",
    "IMG": lambda problem: problem.image is not None,
    "NO": lambda problem: problem.hint == "" and problem.image is None,
    "G1-6": lambda problem: problem.grade is not None and problem.grade <= 6,
    "G7-12": lambda problem: problem.grade is not None and problem.grade > 6,
    "Avg": lambda problem: True,
}


def columns(outcomes: Iterable[tuple[Problem, bool]]) -> list[ScienceQaColumn]:
    """Computes the nine columns from problems and whether each was answered correctly."""
    outcomes = list(outcomes)
    scores = []
    for name, belongs in COLUMNS.items():
        chosen = [is_correct for problem, is_correct in outcomes if belongs(problem)]
        scores.append(ScienceQaColumn(name, len(chosen), sum(chosen)))
    return scores


def table(scores: Sequence[ScienceQaColumn]) -> str:
    """Returns the columns as text in four rows: accuracy, standard error, correct answers and questions."""
    figure, width = number(".2f"), 6
    return table_as_text(
        Table(
            [Column("", "left"), *(Column(score.name, min_width=width) for score in scores)],
            [
                ["accuracy %", *(figure(score.accuracy) for score in scores)],
                ["std. error", *(figure(score.standard_error) for score in scores)],
                ["correct", *(score.num_correct for score in scores)],
                ["questions", *(score.num_questions for score in scores)],
            ],
        )
    )


def as_json(scores: Sequence[ScienceQaColumn]) -> dict[str, dict[str, Any]]:
    """Returns the columns as a result file contains them. Accuracies and errors are in percent and unrounded."""
    return {
        score.name: {
            "accuracy": score.accuracy,
            "standard_error": score.standard_error,
            "correct": score.num_correct,
            "questions": score.num_questions,
        }
        for score in scores
    }


def share(label: str, count: int, total: int, *, measure: str = "Accuracy") -> str:
    """Returns a line as the original prints it: `Total: 12, Correct: 9, Accuracy: 75.00%`."""
    return f"Total: {total}, {label}: {count}, {measure}: {count / total * 100:.2f}%"
