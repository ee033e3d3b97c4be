"""Renders the report as a single HTML page that contains its styles, script, figures, answers and images.

What models, judges and files wrote is untrusted. It reaches the page in two ways only: escaped by the template, or as
JSON that the script turns into text nodes. The page's security policy allows its own script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from llava import __version__
from llava.eval.report.comparison import (
    BETTER,
    EVEN,
    MISSING,
    NOT_MARKED,
    OUTCOMES,
    PARTLY,
    RIGHT,
    UNPARSABLE,
    WORSE,
    WRONG,
    ComparedAnswer,
    ComparedQuestion,
    Comparison,
)
from llava.eval.report.figures import ReportFigures
from llava.eval.report.images import Images
from llava.eval.report.plot import Point, Row, intervals, legend_mark, shares
from llava.eval.report.run import PERCENT, EvaluatedRun
from llava.eval.report.tables import CATEGORIES, DIFFERENCES, RESULTS, measure, sections_of, with_interval
from llava.eval.scoring.estimates import Estimate
from llava.reports.document import Section

TONES: Final = {
    RIGHT: "good",
    BETTER: "good",
    PARTLY: "fair",
    EVEN: "fair",
    WRONG: "bad",
    WORSE: "bad",
    UNPARSABLE: "odd",
    MISSING: "none",
    NOT_MARKED: "none",
}
_FOLDED_ROWS: Final = 12
"""Longest table that is shown unfolded, in rows."""
_PLOTTED_ROWS: Final = 40
"""Most categories in a plot."""


def as_page(
    comparison: Comparison,
    figures: ReportFigures,
    images: Images | None,
    *,
    title: str,
    read: Sequence[str],
    max_answers: int | None = None,
) -> str:
    """Returns the page.

    Args:
        images: the images of the questions; None for a page without images.
        read: what else was read, a sentence each.
        max_answers: number of questions whose answers are on the page; None for all. Figures always cover all.
    """
    from jinja2 import Environment

    folder = files("llava.eval.report")
    style, script, template = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    page = Environment(autoescape=True).from_string(template)
    html = page.render(
        title=title,
        subtitle=_subtitle(comparison, max_answers),
        runs=[_run(number, run) for number, run in enumerate(comparison.runs)],
        remarks=comparison.remarks,
        sections=[_section(section, comparison, figures) for section in sections_of(comparison, figures)],
        read=read,
        version=__version__,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=_for_script(_data(comparison, images, max_answers)),
    )
    # JSON may contain unpaired surrogates, which a UTF-8 file cannot.
    return html.encode("utf-8", "replace").decode("utf-8")


def _subtitle(comparison: Comparison, max_answers: int | None) -> str:
    total = len(comparison.questions)
    text = f"{comparison.benchmark}: {total:,} question{'' if total == 1 else 's'}"
    if max_answers is not None and max_answers < total:
        text += f"; figures cover all of them, answers of the first {max_answers:,} are shown"
    return text


def _run(number: int, run: EvaluatedRun) -> dict[str, Any]:
    return {
        "name": run.name,
        "model": run.model if run.model != run.name else None,
        "mark": legend_mark(number),
        "content": run.content,
        "count": f"{len(run.marks):,} questions",
        "path": str(run.path),
    }


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _for_script(value: Any) -> str:
    """Returns JSON that can close neither its element nor any other on the page."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# Sections


def _section(section: Section, comparison: Comparison, figures: ReportFigures) -> dict[str, Any]:
    (table,) = section.tables
    return {
        "heading": section.heading,
        "paragraph": section.paragraph,
        "table": table,
        "plots": _plots(section.heading, comparison, figures),
        "folded": len(table.rows) > _FOLDED_ROWS,
    }


def _plots(heading: str, comparison: Comparison, figures: ReportFigures) -> list[dict[str, str]]:
    if heading == RESULTS:
        return _result_plots(comparison, figures)
    if heading == DIFFERENCES:
        return _difference_plots(comparison, figures)
    return _category_plots(comparison, figures) if heading.startswith(CATEGORIES) else []


def _result_plots(comparison: Comparison, figures: ReportFigures) -> list[dict[str, str]]:
    plots = []
    rows = [
        Row(run.name, [_point(run.score, number, run.name)])
        for number, run in enumerate(figures.runs)
        if run.score.value is not None
    ]
    if rows:
        caption = f"{measure(comparison)}; bars are 95 % intervals"
        plots.append({"svg": intervals(rows, title=f"{caption}. The table has the numbers."), "caption": caption})
    bars = [
        (run.name, [(outcome, run.counts[outcome], TONES[outcome]) for outcome in OUTCOMES if run.counts[outcome]])
        for run in figures.runs
    ]
    caption = f"outcomes, from left to right: {', '.join(comparison.outcomes)}"
    plots.append({"svg": shares(bars, title=f"{caption}. The table has the numbers."), "caption": caption})
    return plots


def _difference_plots(comparison: Comparison, figures: ReportFigures) -> list[dict[str, str]]:
    rows = []
    for one in figures.differences:
        name = f"{comparison.runs[one.second].name} – {comparison.runs[one.first].name}"
        rows.append(Row(name, [_point(one.value, one.second, name)]))
    if not any(point.value is not None for row in rows for point in row.points):
        return []
    caption = "score of the second run less that of the first; a difference is clear if its interval excludes 0"
    return [{"svg": intervals(rows, title=f"{caption}. The table has the numbers.", zero=True), "caption": caption}]


def _category_plots(comparison: Comparison, figures: ReportFigures) -> list[dict[str, str]]:
    marked = [number for number, run in enumerate(comparison.runs) if run.is_marked]
    rows = []
    for one in figures.categories[:_PLOTTED_ROWS]:
        points = [_point(score, run, comparison.runs[run].name) for run, score in zip(marked, one.scores, strict=True)]
        rows.append(Row(f"{one.name} ({one.num_questions:,})", points))
    caption = f"{measure(comparison)}, by category; bars are 95 % intervals"
    if len(figures.categories) > _PLOTTED_ROWS:
        caption += f"; the first {_PLOTTED_ROWS} of {len(figures.categories)} categories"
    return [{"svg": intervals(rows, title=f"{caption}. The table has the numbers."), "caption": caption}]


def _point(estimate: Estimate, series: int, name: str) -> Point:
    return Point(estimate.value, estimate.low, estimate.high, series, f"{name}: {with_interval(estimate)}")


# Answers


def _data(comparison: Comparison, images: Images | None, max_answers: int | None) -> dict[str, Any]:
    questions = comparison.questions[:max_answers]
    uris = images.uris if images else {}
    names = [name for name in dict.fromkeys(question.image for question in questions) if name in uris]
    categories = comparison.categories
    return {
        "runs": [run.name for run in comparison.runs],
        "runTexts": [any(mark.text for mark in run.marks.values()) for run in comparison.runs],
        "comparable": [number for number, run in enumerate(comparison.runs) if run.is_marked],
        "scale": comparison.scale if comparison.scale != PERCENT else int(PERCENT),
        "outcomes": comparison.outcomes,
        "tones": TONES,
        "categories": categories,
        "images": [uris[name] for name in names],
        "questions": [_question(one, names, categories) for one in questions],
        "answers": [[_answer(cell) for cell in row[:max_answers]] for row in comparison.cells],
        "disagreeing": [number for number in range(len(questions)) if comparison.disagrees(number)],
    }


def _question(question: ComparedQuestion, names: list[str], categories: list[str]) -> dict[str, Any]:
    return {
        "id": question.id,
        "text": question.text,
        "target": question.target,
        "image": question.image,
        "shown": names.index(question.image) if question.image in names else None,
        "categories": [categories.index(name) for name in question.categories],
        "note": question.note,
    }


def _answer(cell: ComparedAnswer) -> dict[str, Any]:
    return {
        "text": cell.text,
        "outcome": cell.outcome,
        "score": cell.score,
        "parsed": cell.parsed,
        "prompt": cell.prompt,
        "note": cell.note,
    }
