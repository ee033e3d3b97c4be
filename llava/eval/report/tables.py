"""Lays the figures of a report out as sections with tables, which both the page and the Markdown file show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from llava.eval.report.comparison import OUTCOMES, Comparison, has_few_images
from llava.eval.report.figures import ALL, CategoryFigures, ReportFigures, RunDifference
from llava.eval.report.run import PERCENT, EvaluatedRun, FigureWithInterval
from llava.eval.scoring.estimates import Estimate
from llava.reports.document import Column, Section, Table, number

RESULTS: Final = "Results"
DIFFERENCES: Final = "Differences"
CATEGORIES: Final = "Categories"
_NONE: Final = "–"

AnyFigure = Estimate | FigureWithInterval


def interval(figure: AnyFigure) -> str:
    """Returns `76.1 to 80.5`."""
    return _interval(figure, ".2f")


def value(figure: AnyFigure) -> str:
    """Returns `78.4`."""
    return _number(figure.value, ".2f")


def with_interval(figure: AnyFigure | None) -> str:
    """Returns `78.4 (76.1 to 80.5)`, or a dash for None."""
    return _with_interval(figure, ".2f")


def _signed_interval(figure: AnyFigure) -> str:
    return _interval(figure, "+.2f")


def _signed_value(figure: AnyFigure) -> str:
    return _number(figure.value, "+.2f")


def _signed_with_interval(figure: AnyFigure | None) -> str:
    return _with_interval(figure, "+.2f")


def _with_interval(figure: AnyFigure | None, spec: str) -> str:
    if figure is None:
        return _NONE
    shown = _number(figure.value, spec)
    return shown if figure.value is None or figure.low is None else f"{shown} ({_interval(figure, spec)})"


def _interval(figure: AnyFigure, spec: str) -> str:
    if figure.low is None or figure.high is None:
        return _NONE
    return f"{_number(figure.low, spec)} to {_number(figure.high, spec)}"


def _number(value: float | None, spec: str) -> str:
    return _NONE if value is None else format(value, spec).replace("-", "−")


_COUNT: Final = number(",")


def sections_of(comparison: Comparison, figures: ReportFigures) -> list[Section]:
    """Returns the sections that have something to show, the most important first. Each one has a single table."""
    sections = [
        _results(comparison, figures),
        _differences(comparison, figures),
        _categories(comparison, figures),
        _order(comparison, figures),
        _headlines(comparison.runs),
    ]
    return [section for section in sections if section.tables[0].rows]


def measure(comparison: Comparison) -> str:
    """Returns what the score of a run is called."""
    if comparison.scale == PERCENT:
        return "score, %" if _has_partial_marks(comparison) else "accuracy, %"
    return f"mean score, of {comparison.scale:g}"


def _results(comparison: Comparison, figures: ReportFigures) -> Section:
    outcomes = [outcome for outcome in OUTCOMES if any(run.counts[outcome] for run in figures.runs)]
    marked = comparison.is_marked
    scores = [
        Column(measure(comparison), format=value),
        Column("95 % interval", format=interval),
        Column("counted", format=_COUNT),
    ]
    columns = [
        Column("run", "left"),
        *(scores if marked else []),
        *(Column(outcome, format=_COUNT) for outcome in outcomes),
        Column("words per answer", format=number(".1f", missing=_NONE)),
    ]
    rows, links = [], {}
    for place, run in enumerate(figures.runs):
        score = [run.score, run.score, int(run.score.possible)] if marked else []
        rows.append([run.name, *score, *(run.counts[outcome] for outcome in outcomes), run.num_words])
        for column, outcome in enumerate(outcomes, start=1 + len(score)):
            links[place, column] = urlencode({"show": outcome, "of": place})
    together = "Questions about one image are not independent, so the intervals treat them as one observation."
    paragraph = together if marked and _shares_images(comparison) else ""
    return Section(RESULTS, paragraph=paragraph, tables=[Table(columns, rows, links)])


def _differences(comparison: Comparison, figures: ReportFigures) -> Section:
    relative = {(one.first, one.second): one.by_category.get(ALL) for one in figures.relative}
    columns = [
        Column("runs", "left"),
        Column("difference", format=_signed_value),
        Column("95 % interval", format=_signed_interval),
        Column("verdict"),
        Column("first better", format=_COUNT),
        Column("second better", format=_COUNT),
        Column("same", format=_COUNT),
        *([Column("second in % of first", format=with_interval)] if relative else []),
    ]
    rows, links = [], {}
    for place, one in enumerate(figures.differences):
        names = f"{comparison.runs[one.second].name} – {comparison.runs[one.first].name}"
        counts = [one.first_better, one.second_better, one.same]
        ratio = [relative.get((one.first, one.second))] if relative else []
        rows.append([names, one.value, one.value, _verdict(one, comparison), *counts, *ratio])
        links[place, 4] = urlencode({"ahead": f"{one.first}>{one.second}"})
        links[place, 5] = urlencode({"ahead": f"{one.second}>{one.first}"})
    paragraph = "The score of the second run less that of the first, on the questions that have a mark in both."
    return Section(DIFFERENCES, paragraph=paragraph, tables=[Table(columns, rows, links)])


def _verdict(one: RunDifference, comparison: Comparison) -> str:
    if one.value.value is None:
        return "nothing in common"
    if has_few_images(comparison.questions):
        return "too few images"
    return "clear" if one.is_clear else "within chance"


def _categories(comparison: Comparison, figures: ReportFigures) -> Section:
    marked = [run.name for run in comparison.runs if run.is_marked]
    names = [run.name for run in comparison.runs]
    beside = [
        Column(f"{names[one.second]} in % of {names[one.first]}", format=with_interval) for one in figures.relative
    ]
    columns = [
        Column("category", "left"),
        Column("questions", format=_COUNT),
        *(Column(name, format=with_interval) for name in marked),
        *(beside or [Column(f"{name} – {marked[0]}", format=_signed_with_interval) for name in marked[1:]]),
    ]
    rows = [
        [one.name, one.num_questions, *one.scores, *_beside(one, figures)]
        for one in (figures.categories if marked else [])
    ]
    paragraph = "Scores with 95 % intervals. A question may belong to several categories."
    return Section(f"{CATEGORIES}: {measure(comparison)}", paragraph=paragraph, tables=[Table(columns, rows)])


def _beside(category: CategoryFigures, figures: ReportFigures) -> Sequence[AnyFigure | None]:
    if figures.relative:
        return [one.by_category.get(category.name) for one in figures.relative]
    return category.differences


def _order(comparison: Comparison, figures: ReportFigures) -> Section:
    names = [run.name for run in comparison.runs]
    columns = [
        Column("figure", "left"),
        Column("gap", format=_signed_value),
        Column("95 % interval", format=_signed_interval),
    ]
    rows = [
        [f"{names[one.second]} in % of {names[one.first]}", one.order_gap, one.order_gap]
        for one in figures.relative
        if one.order_gap is not None
    ]
    paragraph = (
        "How much the judge prefers the answer that it sees first: the figure with the answers swapped less the figure "
        "with the answers as given."
    )
    return Section("Order of the answers", paragraph=paragraph, tables=[Table(columns, rows)])


def _headlines(runs: Sequence[EvaluatedRun]) -> Section:
    with_figures = [run for run in runs if run.figures]
    names = dict.fromkeys(name for run in runs for name in run.figures)
    columns = [Column("figure", "left"), *(Column(run.name, format=with_interval) for run in with_figures)]
    rows = [[name, *(run.figures.get(name) for run in with_figures)] for name in names]
    paragraph = "The figures that the benchmark's scorer computed, with its intervals if it gives any."
    return Section("The benchmark's own figures", paragraph=paragraph, tables=[Table(columns, rows)])


def _has_partial_marks(comparison: Comparison) -> bool:
    return any(cell.score not in (None, 0.0, 1.0) for row in comparison.cells for cell in row)


def _shares_images(comparison: Comparison) -> bool:
    names = [question.image for question in comparison.questions if question.image]
    return len(set(names)) < len(names)
