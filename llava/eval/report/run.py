"""Defines a run of a report: the marked answers of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava.eval.reviews.reader import Reviews
from llava.eval.scoring.marks import MarkedAnswer

PERCENT, POINTS = 100.0, 10.0
"""What the highest score is shown as: PERCENT for right and wrong answers, POINTS for a judge's scores."""


@dataclass(frozen=True)
class FigureWithInterval:
    """A figure that a scorer or a summary of reviews computed, with its 95 % interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class EvaluatedRun:
    """The answers of one model."""

    name: str
    path: Path
    content: str
    """What was read, in a few words."""
    marks: dict[str, MarkedAnswer]
    """The marked answers, by id of the question."""
    places: dict[str, str]
    """Where each answer is (file, line and id), by id of the question. Error messages begin with it."""
    is_marked: bool
    """Whether the answers have marks, so that there is something to count."""
    benchmark: str | None = None
    model: str | None = None
    figures: Mapping[str, FigureWithInterval] = field(default_factory=dict)
    """The benchmark's own headline figures, by name."""
    scale: float = PERCENT
    """What the highest score is shown as: PERCENT or POINTS."""
    answer_ids: Mapping[str, str] = field(default_factory=dict)
    """Ids of the answers, to which reviews refer, by id of the question."""
    remarks: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    """The customary order of the categories, if there is one."""
    side: int | None = None
    """Which of the two answers in a file of reviews, 1 or 2; None for other runs."""
    reviews: Reviews | None = None

    @property
    def short(self) -> str:
        """Name of the run if nothing better is known: its file, and its side of a file of reviews."""
        return f"{self.path.stem}, answer {self.side}" if self.side else self.path.stem
