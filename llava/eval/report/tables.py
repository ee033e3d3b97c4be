"""The tables of a report, as cells of text: what the page and the Markdown file both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from llava.eval.report.comparison import OUTCOMES, Comparison, has_few_images
from llava.eval.report.figures import ALL, CategoryFigures, Difference, Figures
from llava.eval.report.run import PERCENT, Figure, Run
from llava.eval.scoring.estimates import Estimate

NONE = "–"


@dataclass(frozen=True)
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    explanation: str = ""
    views: dict[tuple[int, int], str] = field(default_factory=dict)
    """By row and column, the view of the page's answers that a number counts, as its address has it."""


def tables_of(comparison: Comparison, figures: Figures) -> list[Table]:
    """All that have something to say, the most telling first."""
    every = [
        _results(comparison, figures),
        _differences(comparison, figures),
        _categories(comparison, figures),
        _order(comparison, figures),
        _headlines(comparison.runs),
    ]
    return [table for table in every if table.rows]


def measure(comparison: Comparison) -> str:
    """What the score of a run is called."""
    if comparison.scale == PERCENT:
        return "score, %" if _has_partial_marks(comparison) else "accuracy, %"
    return f"mean score, of {comparison.scale:g}"


def interval(estimate: Estimate | Figure, *, signed: bool = False) -> str:
    """`76.1 to 80.5`."""
    if estimate.low is None or estimate.high is None:
        return NONE
    return f"{_number(estimate.low, signed)} to {_number(estimate.high, signed)}"


def value(estimate: Estimate | Figure, *, signed: bool = False) -> str:
    return NONE if estimate.value is None else _number(estimate.value, signed)


def with_interval(estimate: Estimate | Figure, *, signed: bool = False) -> str:
    """`78.4 (76.1 to 80.5)`."""
    if estimate.value is None or estimate.low is None:
        return value(estimate, signed=signed)
    return f"{value(estimate, signed=signed)} ({interval(estimate, signed=signed)})"


def _results(comparison: Comparison, figures: Figures) -> Table:
    outcomes = [outcome for outcome in OUTCOMES if any(run.counts[outcome] for run in figures.runs)]
    marked = comparison.is_marked
    head = ["run", *([measure(comparison), "95 % interval", "counted"] if marked else []), *outcomes, "words an answer"]
    rows, views = [], {}
    for number, run in enumerate(figures.runs):
        scores = [value(run.score), interval(run.score), f"{int(run.score.possible):,}"] if marked else []
        words = NONE if run.num_words is None else f"{run.num_words:.1f}"
        rows.append([run.name, *scores, *(f"{run.counts[outcome]:,}" for outcome in outcomes), words])
        for column, outcome in enumerate(outcomes, start=1 + len(scores)):
            views[number, column] = urlencode({"show": outcome, "of": number})
    return Table("Results", head, rows, _CLUSTERED if marked and _shares_images(comparison) else "", views)


_CLUSTERED = "Questions about one image are not independent; the intervals take them together."


def _differences(comparison: Comparison, figures: Figures) -> Table:
    relative = {(one.first, one.second): one.by_category.get(ALL) for one in figures.relative}
    head = ["runs", "difference", "95 % interval", "verdict", "first better", "second better", "same"]
    rows, views = [], {}
    for number, one in enumerate(figures.differences):
        names = f"{comparison.runs[one.second].name} – {comparison.runs[one.first].name}"
        cells = [value(one.value, signed=True), interval(one.value, signed=True), _verdict(one, comparison)]
        counts = [f"{count:,}" for count in (one.first_better, one.second_better, one.same)]
        views[number, 4] = urlencode({"ahead": f"{one.first}>{one.second}"})
        views[number, 5] = urlencode({"ahead": f"{one.second}>{one.first}"})
        ratio = relative.get((one.first, one.second))
        rows.append([names, *cells, *counts, *([with_interval(ratio) if ratio else NONE] if relative else [])])
    return Table(
        "Differences",
        [*head, *(["second in % of first"] if relative else [])],
        rows,
        "Of the second run to the first, on the questions that both have a mark for, question by question.",
        views,
    )


def _verdict(one: Difference, comparison: Comparison) -> str:
    if one.value.value is None:
        return "nothing in common"
    if has_few_images(comparison.questions):
        return "too few images"
    return "clear" if one.is_clear else "within chance"


def _categories(comparison: Comparison, figures: Figures) -> Table:
    names = [run.name for run in comparison.runs if run.is_marked]
    every = [run.name for run in comparison.runs]
    beside = [f"{every[one.second]} in % of {every[one.first]}" for one in figures.relative]
    beside = beside or [f"{name} – {names[0]}" for name in names[1:]]
    head = ["category", "questions", *names, *beside]
    rows = [
        [
            one.name,
            f"{one.num_questions:,}",
            *(with_interval(score) for score in one.scores),
            *_beside(one, figures),
        ]
        for one in (figures.categories if names else [])
    ]
    title = f"Categories: {measure(comparison)}"
    return Table(title, head, rows, "With 95 % intervals. A question may belong to several categories.")


def _beside(category: CategoryFigures, figures: Figures) -> list[str]:
    if figures.relative:
        found = [one.by_category.get(category.name) for one in figures.relative]
        return [NONE if figure is None else with_interval(figure) for figure in found]
    return [with_interval(difference, signed=True) for difference in category.differences]


def _order(comparison: Comparison, figures: Figures) -> Table:
    names = [run.name for run in comparison.runs]
    rows = [
        [f"{names[one.second]} in % of {names[one.first]}", value(gap, signed=True), interval(gap, signed=True)]
        for one in figures.relative
        if (gap := one.order_gap) is not None
    ]
    told = "How much the judge prefers what it sees first: the figure swapped less the figure as given."
    return Table("Order of the answers", ["figure", "gap", "95 % interval"], rows, told)


def _headlines(runs: Sequence[Run]) -> Table:
    names = list(dict.fromkeys(name for run in runs for name in run.figures))
    with_figures = [run for run in runs if run.figures]
    rows = []
    for name in names:
        found = [run.figures.get(name) for run in with_figures]
        rows.append([name, *(NONE if figure is None else with_interval(figure) for figure in found)])
    return Table(
        "The benchmark's own figures",
        ["figure", *(run.name for run in with_figures)],
        rows,
        "As its scorer computed them, with its intervals where it gives some.",
    )


def _has_partial_marks(comparison: Comparison) -> bool:
    return any(cell.score not in (None, 0.0, 1.0) for row in comparison.cells for cell in row)


def _shares_images(comparison: Comparison) -> bool:
    names = [question.image for question in comparison.questions if question.image]
    return len(set(names)) < len(names)


def _number(number: float, signed: bool) -> str:
    text = f"{number:+.2f}" if signed else f"{number:.2f}"
    return text.replace("-", "−")
