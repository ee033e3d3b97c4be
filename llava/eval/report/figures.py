"""Computes the figures of a report: those of each run, their differences, and the same in each category.

Questions about one image succeed and fail together, so they are one observation. Two runs are compared question by
question, on those that have a mark in both, which says far more than two intervals side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from llava.eval.report.comparison import ComparedAnswer, ComparedQuestion, Comparison
from llava.eval.report.run import FigureWithInterval
from llava.eval.scoring.estimates import Estimate, Part, ratio

ALL = "all"
"""Name of all categories together in the figures of reviews."""


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run."""

    name: str
    score: Estimate
    """Mean score, on the scale of the report."""
    counts: Counter[str]
    """Number of answers by outcome."""
    num_words: float | None
    """Mean number of words per answer; None without answers."""


@dataclass(frozen=True)
class RunDifference:
    """The difference of two runs on the questions that have a mark in both."""

    first: int
    """Index of the first run."""
    second: int
    """Index of the second run."""
    value: Estimate
    """Score of the second run minus that of the first."""
    first_better: int
    second_better: int
    same: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        low, high = self.value.low, self.value.high
        return low is not None and high is not None and not low <= 0 <= high


@dataclass(frozen=True)
class CategoryFigures:
    """The figures of one category."""

    name: str
    num_questions: int
    scores: list[Estimate]
    """Score of each marked run."""
    differences: list[Estimate]
    """Difference of every further marked run to the first."""


@dataclass(frozen=True)
class Relative:
    """The two sides of a file of reviews: scores of the second in percent of those of the first."""

    first: int
    second: int
    by_category: dict[str, FigureWithInterval]
    """Figures as in `summarize_gpt_review`, including `ALL`."""
    order_gap: FigureWithInterval | None
    """How much the place that the judge sees first adds; None if it saw the answers in one order only."""


@dataclass(frozen=True)
class ReportFigures:
    """All figures of a report."""

    runs: list[RunFigures]
    differences: list[RunDifference]
    categories: list[CategoryFigures]
    relative: list[Relative]


def figures_of(comparison: Comparison) -> ReportFigures:
    """Computes all figures of a report."""
    questions, cells, scale = comparison.questions, comparison.cells, comparison.scale
    everything = range(len(questions))
    marked = [number for number, run in enumerate(comparison.runs) if run.is_marked]
    pairs = list(combinations(marked, 2))
    return ReportFigures(
        [
            RunFigures(run.name, _mean(row, questions, everything, scale), Counter(c.outcome for c in row), _words(row))
            for run, row in zip(comparison.runs, cells, strict=True)
        ],
        [_difference(one, other, comparison) for one, other in pairs],
        [_category(name, comparison, marked) for name in comparison.categories],
        [_relative(one, other, comparison) for one, other in pairs if _are_sides_of_one_file(comparison, one, other)],
    )


def _mean(
    row: Sequence[ComparedAnswer], questions: Sequence[ComparedQuestion], chosen: Iterable[int], scale: float
) -> Estimate:
    parts = [
        Part(score, group=questions[number].image) for number in chosen if (score := row[number].score) is not None
    ]
    return ratio("score", parts, scale=scale)


def _difference(first: int, second: int, comparison: Comparison) -> RunDifference:
    ours, theirs = comparison.cells[first], comparison.cells[second]
    chosen = range(len(comparison.questions))
    gains = [gain for number in chosen if (gain := _gain(ours[number], theirs[number])) is not None]
    return RunDifference(
        first,
        second,
        _mean_difference(ours, theirs, comparison.questions, chosen, comparison.scale),
        sum(gain < 0 for gain in gains),
        sum(gain > 0 for gain in gains),
        sum(gain == 0 for gain in gains),
    )


def _gain(ours: ComparedAnswer, theirs: ComparedAnswer) -> float | None:
    return None if ours.score is None or theirs.score is None else theirs.score - ours.score


def _mean_difference(
    ours: Sequence[ComparedAnswer],
    theirs: Sequence[ComparedAnswer],
    questions: Sequence[ComparedQuestion],
    chosen: Iterable[int],
    scale: float,
) -> Estimate:
    """Estimates the mean of the second run's score minus the first's."""
    parts = [
        Part((1 + gain) / 2, group=questions[number].image)
        for number in chosen
        if (gain := _gain(ours[number], theirs[number])) is not None
    ]
    # A difference is between -1 and 1, but `ratio` expects values between 0 and 1.
    shifted = ratio("difference", parts, scale=2 * scale)
    ends = [None if end is None else end - scale for end in (shifted.value, shifted.low, shifted.high)]
    return Estimate("difference", ends[0], shifted.standard_error, ends[1], ends[2], shifted.gained, shifted.possible)


def _are_sides_of_one_file(comparison: Comparison, first: int, second: int) -> bool:
    one, other = comparison.runs[first], comparison.runs[second]
    return one.reviews is not None and one.reviews is other.reviews and (one.side, other.side) == (1, 2)


def _relative(first: int, second: int, comparison: Comparison) -> Relative:
    from llava.eval.reviews.figures import Bootstrap, model_figures

    reviews = comparison.runs[first].reviews
    assert reviews is not None
    images = {question.id: question.image for question in comparison.questions if question.image}
    model = model_figures(reviews, reviews.name, Bootstrap(images=images))
    gap = model.order_gap
    return Relative(
        first,
        second,
        {
            one.category: FigureWithInterval(one.relative, one.low, one.high)
            for one in model.figures
            if one.relative is not None
        },
        FigureWithInterval(gap.gap, gap.low, gap.high) if gap else None,
    )


def _category(name: str, comparison: Comparison, marked: Sequence[int]) -> CategoryFigures:
    questions, cells, scale = comparison.questions, comparison.cells, comparison.scale
    chosen = [number for number, question in enumerate(questions) if name in question.categories]
    return CategoryFigures(
        name,
        len(chosen),
        [_mean(cells[run], questions, chosen, scale) for run in marked],
        [_mean_difference(cells[marked[0]], cells[run], questions, chosen, scale) for run in marked[1:]],
    )


def _words(row: Sequence[ComparedAnswer]) -> float | None:
    lengths = [len(cell.text.split()) for cell in row if cell.text]
    return sum(lengths) / len(lengths) if lengths else None
