"""The nine columns of the published ScienceQA tables, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llava.eval.science_qa.dataset import Problem


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the published tables."""

    name: str
    num_questions: int
    num_correct: int

    @property
    def accuracy(self) -> float | None:
        """In percent; None where there is no question."""
        return self.num_correct / self.num_questions * 100 if self.num_questions else None

    @property
    def standard_error(self) -> float | None:
        """Of the accuracy, in percent: that of a share among independent questions."""
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


def columns(outcomes: Iterable[tuple[Problem, bool]]) -> list[Column]:
    """The nine columns, from each problem and whether it was answered right."""
    outcomes = list(outcomes)
    scores = []
    for name, belongs in COLUMNS.items():
        chosen = [is_correct for problem, is_correct in outcomes if belongs(problem)]
        scores.append(Column(name, len(chosen), sum(chosen)))
    return scores


def table(scores: Sequence[Column]) -> str:
    """The columns as text, four rows: accuracy, standard error, right answers, questions."""
    rows = [
        ("", [score.name for score in scores]),
        ("accuracy %", [_figure(score.accuracy) for score in scores]),
        ("std. error", [_figure(score.standard_error) for score in scores]),
        ("correct", [str(score.num_correct) for score in scores]),
        ("questions", [str(score.num_questions) for score in scores]),
    ]
    return "\n".join(f"{head:<10}" + "".join(f"{cell:>8}" for cell in cells) for head, cells in rows)


def as_json(scores: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """The columns as a result file holds them, accuracies and errors in percent and unrounded."""
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
    """A line of the original's: `Total: 12, Correct: 9, Accuracy: 75.00%`."""
    return f"Total: {total}, {label}: {count}, {measure}: {count / total * 100:.2f}%"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
