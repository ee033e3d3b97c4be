"""Lays the figures of reviews out as a document, and as the lines that the original prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from llava.eval.data.records import some
from llava.eval.reviews.figures import ALL, ReviewDifference, ReviewedModel, ReviewFigure
from llava.reports.document import Column, Document, Section, Table, number

_KNOWN_CATEGORIES: Final = ("conv", "detail", "complex")


def _interval(figure: Any, spec: str = ".1f") -> str:
    """Returns `80.2 to 90.3` for anything with `low` and `high`, or a dash if there is no interval."""
    if figure.low is None or figure.high is None:
        return "-"
    return f"{figure.low:{spec}} to {figure.high:{spec}}"


def _signed_interval(figure: Any) -> str:
    return _interval(figure, "+.1f")


_RELATIVE: Final = number(".1f")
_FIGURE_COLUMNS: Final = (
    Column("model", "left"),
    Column("category", "left"),
    Column("relative", format=_RELATIVE),
    Column("95 % interval", format=_interval),
    Column("reference", format=number(".3f")),
    Column("model's", format=number(".3f")),
    Column("questions"),
)
_DIFFERENCE_COLUMNS: Final = (
    Column("second", "left"),
    Column("minus first", "left"),
    Column("category", "left"),
    Column("difference", format=number("+.1f")),
    Column("95 % interval", format=_signed_interval),
    Column("questions"),
)
_ORDER_COLUMNS: Final = (
    Column("model", "left"),
    Column("reference first", format=number(".1f")),
    Column("second", format=number(".1f")),
    Column("gap", format=number("+.1f")),
    Column("95 % interval", format=_signed_interval),
    Column("flipped"),
    Column("questions"),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of a summary."""

    models: tuple[ReviewedModel, ...]
    differences: tuple[ReviewDifference, ...]
    num_resamples: int
    seed: int
    notes: tuple[str, ...]
    """What readers of the figures must know, a sentence each."""


def document_of(summary: Summary) -> Document:
    """Returns the report on a summary. Its JSON and CSV contain every field, unrounded."""
    models = summary.models
    figures = [{"model": model.name, "file": model.file} | asdict(one) for model in models for one in model.figures]
    sections = [
        Section("Relative scores", tables=[_overview(models)]),
        Section("Every category", tables=[_figures(models)]),
        Section("Differences between models", tables=[_differences(summary.differences)]),
        Section("Order of the answers", tables=[_orders(models)]),
        Section("What to know", notes=summary.notes),
    ]
    return Document(
        title="GPT review",
        introduction=_explanation(summary),
        sections=[one for one in sections if one.notes or any(table.rows for table in one.tables)],
        data=asdict(summary),
        csv={
            "": Table.of_records(["model", "file", *ReviewFigure.__dataclass_fields__], figures),
            "-differences": Table.of_records(
                list(ReviewDifference.__dataclass_fields__), map(asdict, summary.differences)
            ),
        },
        plot_caption="Relative scores with their intervals",
        titles_in_text=False,
    )


def as_original(summary: Summary) -> str:
    """Returns each category with its relative score and ten times the two means; a line of equal signs ends a file."""
    lines = []
    for model in summary.models:
        lines.append(model.name)
        lines += [f"{f.category} {f.relative} {round(f.mean1 * 10, 1)} {round(f.mean2 * 10, 1)}" for f in model.figures]
        lines.append("=" * 33)
    return "\n".join(lines)


def notes(models: Sequence[ReviewedModel], repeated: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Returns what readers must know about the files.

    Args:
        repeated: ids of questions that were reviewed more than once, by file.
    """
    found = [note for model in models for note in _notes_on(model, repeated.get(model.file, ()))]
    judges = {judge for model in models for judge in model.judges}
    if len(judges) > 1:
        found.append(f"Several judges ({', '.join(sorted(judges))}): their scores are not comparable.")
    return found


def _notes_on(model: ReviewedModel, repeated: tuple[str, ...]) -> Iterator[str]:
    if model.unparsable:
        ids = f"{len(model.unparsable)} questions ({some(model.unparsable)})"
        yield f"{model.name}: reviews without scores, in no figure: {ids}."
    if model.one_order_only:
        ids = f"{len(model.one_order_only)} questions ({some(model.one_order_only)})"
        yield f"{model.name}: scored in one order only, so only that order counts: {ids}."
    if not model.figures:
        yield f"{model.name}: no review has scores."
    if repeated:
        yield f"{model.name}: reviewed more than once, the last review counts: {some(repeated)}."


def _explanation(summary: Summary) -> str:
    intervals = (
        f"Intervals cover 95 % of {summary.num_resamples:,} resamples of the images (seed {summary.seed})."
        if summary.num_resamples
        else "No intervals (--bootstrap 0)."
    )
    return f"Relative score: the mean score of a model's answers in percent of the reference's. {intervals}"


def _overview(models: Sequence[ReviewedModel]) -> Table:
    """One row per model and one column per category."""
    names = {figure.category for model in models for figure in model.figures} - {ALL}
    categories = [*sorted(names, key=_category_place), ALL]
    rows = []
    for model in models:
        by_category = {figure.category: figure for figure in model.figures}
        rows.append([model.name, *(by_category.get(category) for category in categories)])
    return Table([Column("model", "left"), *(Column(name, format=_score_with_interval) for name in categories)], rows)


def _category_place(name: str) -> tuple[int, str]:
    """Sorts the categories of the original's set in the order of its tables."""
    kind = name.removeprefix("llava_bench_")
    return (_KNOWN_CATEGORIES.index(kind) if kind in _KNOWN_CATEGORIES else len(_KNOWN_CATEGORIES), name)


def _score_with_interval(figure: ReviewFigure | None) -> str:
    """Returns `85.1 (80.2 to 90.3)`."""
    if figure is None:
        return "-"
    score = _RELATIVE(figure.relative)
    return score if figure.low is None else f"{score} ({_interval(figure)})"


def _figures(models: Sequence[ReviewedModel]) -> Table:
    rows = [
        (model.name, one.category, one.relative, one, one.mean1, one.mean2, one.num_questions)
        for model in models
        for one in model.figures
    ]
    return Table(_FIGURE_COLUMNS, rows)


def _differences(differences: Sequence[ReviewDifference]) -> Table:
    rows = [(one.second, one.first, one.category, one.difference, one, one.num_questions) for one in differences]
    return Table(_DIFFERENCE_COLUMNS, rows)


def _orders(models: Sequence[ReviewedModel]) -> Table:
    rows = [
        (model.name, gap.forward, gap.swapped, gap.gap, gap, gap.num_flipped, gap.num_questions)
        for model in models
        if (gap := model.order_gap)
    ]
    return Table(_ORDER_COLUMNS, rows)
