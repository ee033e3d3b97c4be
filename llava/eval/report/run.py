"""What a report is made of: runs, each the marked answers of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava.eval.reviews.reader import Reviews
from llava.eval.scoring.marks import MarkedAnswer

PERCENT, POINTS = 100.0, 10.0
"""What the largest score is shown as: of right and wrong answers, of a judge's scores."""


@dataclass(frozen=True)
class Figure:
    """A benchmark's own headline figure, as its scorer computed it."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Run:
    """The answers of one model."""

    name: str
    path: Path
    content: str
    """What was read, in a few words for the reader."""
    marks: dict[str, MarkedAnswer]
    places: dict[str, str]
    """By question: file, line and id, as an error message begins."""
    is_marked: bool
    benchmark: str | None = None
    model: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    scale: float = PERCENT
    answer_ids: Mapping[str, str] = field(default_factory=dict)
    """By question, the id of the answer, which reviews refer to."""
    remarks: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    """Their customary order, where there is one."""
    side: int | None = None
    """Of reviews: 1 or 2, which of the two answers."""
    reviews: Reviews | None = None

    @property
    def short(self) -> str:
        """What the run is called where nothing better is known: its file, and its side of a file of reviews."""
        return f"{self.path.stem}, answer {self.side}" if self.side else self.path.stem
