"""Figures of reviews as text, Markdown, CSV, JSON, and as the lines that the original prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llava.eval.data.records import some
from llava.eval.reviews.figures import ALL, Difference, Figure, Model
from llava.reports.tables import aligned, as_csv, escaped, markdown

_HEAD = ("model", "category", "relative", "95 % interval", "reference", "model's", "questions")
_DIFFERENCE_HEAD = ("second", "minus first", "category", "difference", "95 % interval", "questions")
_ORDER_HEAD = ("model", "reference first", "second", "gap", "95 % interval", "flipped", "questions")


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that a summary says."""

    models: tuple[Model, ...]
    differences: tuple[Difference, ...]
    num_resamples: int
    seed: int
    notes: tuple[str, ...]
    """Sentences that whoever reads the figures has to know."""


def as_text(summary: Summary) -> str:
    """For a terminal."""
    parts = [_explanation(summary), aligned(*_overview(summary), {0}), aligned(_HEAD, _rows(summary), {0, 1})]
    if summary.differences:
        parts.append(aligned(_DIFFERENCE_HEAD, _difference_rows(summary), {0, 1, 2}))
    if orders := _order_rows(summary):
        parts.append(aligned(_ORDER_HEAD, orders, {0}))
    if summary.notes:
        parts.append("\n".join(["What to know", *(f"  {note}" for note in summary.notes)]))
    return "\n\n".join(parts)


def as_markdown(summary: Summary, plot: str | None = None) -> str:
    """A page with the same content; `plot` is the name of an image beside it."""
    parts = ["# GPT review", _explanation(summary)]
    parts += [f"![Relative scores with their intervals]({plot})"] if plot else []
    parts += ["## Relative scores", markdown(*_overview(summary), {0})]
    parts += ["## Every category", markdown(_HEAD, _rows(summary), {0, 1})]
    if summary.differences:
        parts += ["## Differences between models", markdown(_DIFFERENCE_HEAD, _difference_rows(summary), {0, 1, 2})]
    if orders := _order_rows(summary):
        parts += ["## Order of the answers", markdown(_ORDER_HEAD, orders, {0})]
    if summary.notes:
        parts += ["## What to know", "\n".join(f"- {escaped(note)}" for note in summary.notes)]
    return "\n\n".join(parts)


def as_json(summary: Summary) -> str:
    return json.dumps(asdict(summary), indent=2)


def figures_csv(summary: Summary) -> str:
    """A line a model and category."""
    return as_csv(
        ["model", "file", *Figure.__dataclass_fields__],
        [{"model": m.name, "file": m.file} | asdict(figure) for m in summary.models for figure in m.figures],
    )


def differences_csv(summary: Summary) -> str:
    """A line a pair of models and category."""
    return as_csv([*Difference.__dataclass_fields__], [asdict(difference) for difference in summary.differences])


def as_original(summary: Summary) -> str:
    """Category, relative score, ten times the two means; a line of equal signs ends a file."""
    lines = []
    for model in summary.models:
        lines.append(model.name)
        lines += [f"{f.category} {f.relative} {round(f.mean1 * 10, 1)} {round(f.mean2 * 10, 1)}" for f in model.figures]
        lines.append("=" * 33)
    return "\n".join(lines)


def _explanation(summary: Summary) -> str:
    intervals = (
        f"Intervals hold 95 % of {summary.num_resamples:,} resamples of the images (seed {summary.seed})."
        if summary.num_resamples
        else "No intervals (--bootstrap 0)."
    )
    return f"Relative score: the mean score of a model's answers in percent of the reference's. {intervals}"


def _overview(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """A line a model, a column a category."""
    names = {figure.category for model in summary.models for figure in model.figures} - {ALL}
    categories = [*sorted(names, key=_category_place), ALL]
    rows = []
    for model in summary.models:
        by_category = {figure.category: figure for figure in model.figures}
        rows.append([model.name, *(_cell(by_category.get(category)) for category in categories)])
    return ["model", *categories], rows


def _category_place(name: str) -> tuple[int, str]:
    """Those of the original's set in the order of its tables."""
    known = ("conv", "detail", "complex")
    kind = name.removeprefix("llava_bench_")
    return (known.index(kind) if kind in known else len(known), name)


def _rows(summary: Summary) -> list[list[str]]:
    return [
        [
            model.name,
            figure.category,
            _number(figure.relative),
            _interval(figure),
            f"{figure.mean1:.3f}",
            f"{figure.mean2:.3f}",
            str(figure.num_questions),
        ]
        for model in summary.models
        for figure in model.figures
    ]


def _difference_rows(summary: Summary) -> list[list[str]]:
    return [
        [d.second, d.first, d.category, f"{d.difference:+.1f}", _interval(d, signed=True), str(d.num_questions)]
        for d in summary.differences
    ]


def _order_rows(summary: Summary) -> list[list[str]]:
    gaps = [(model.name, model.order_gap) for model in summary.models if model.order_gap]
    return [
        [
            name,
            f"{gap.forward:.1f}",
            f"{gap.swapped:.1f}",
            f"{gap.gap:+.1f}",
            _interval(gap, signed=True),
            str(gap.num_flipped),
            str(gap.num_questions),
        ]
        for name, gap in gaps
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(figure: Any, *, signed: bool = False) -> str:
    if figure.low is None or figure.high is None:
        return "-"
    form = "+.1f" if signed else ".1f"
    return f"{figure.low:{form}} to {figure.high:{form}}"


def _cell(figure: Figure | None) -> str:
    """`85.1 (80.2 to 90.3)`"""
    if figure is None:
        return "-"
    return _number(figure.relative) if figure.low is None else f"{_number(figure.relative)} ({_interval(figure)})"


def notes(models: Sequence[Model], repeated: dict[str, tuple[str, ...]]) -> list[str]:
    """What a reader has to know about the files."""
    found = []
    for model in models:
        if model.unparsable:
            ids = f"{len(model.unparsable)} questions ({some(model.unparsable)})"
            found.append(f"{model.name}: reviews without scores, in no figure: {ids}.")
        if model.one_order_only:
            ids = f"{len(model.one_order_only)} questions ({some(model.one_order_only)})"
            found.append(f"{model.name}: with scores in one order only, which count by themselves: {ids}.")
        if not model.figures:
            found.append(f"{model.name}: no review has scores.")
        if repeated.get(model.file):
            found.append(f"{model.name}: reviewed more than once, the last counts: {some(repeated[model.file])}.")
    judges = {judge for model in models for judge in model.judges}
    if len(judges) > 1:
        found.append(f"Several judges ({', '.join(sorted(judges))}): what one says does not compare with another.")
    return found
