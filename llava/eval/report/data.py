"""Turns the report into JSON: every figure unrounded, every answer with its mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llava.eval.report.comparison import Comparison
from llava.eval.report.figures import Relative, ReportFigures, RunDifference, RunFigures
from llava.eval.report.run import EvaluatedRun
from llava.eval.scoring.estimates import Estimate


def as_json(
    comparison: Comparison, figures: ReportFigures, *, title: str, read: Sequence[str], max_answers: int | None = None
) -> dict[str, Any]:
    """Returns the object of the file. Scores of answers are from 0 to 1, figures on the scale that `scale` names."""
    marked = [run.name for run in comparison.runs if run.is_marked]
    names = [run.name for run in comparison.runs]
    return {
        "title": title,
        "benchmark": comparison.benchmark,
        "scale": comparison.scale,
        "runs": [_run(run, of_run) for run, of_run in zip(comparison.runs, figures.runs, strict=True)],
        "differences": [_difference(one, names) for one in figures.differences],
        "relative_scores": [_relative(one, names) for one in figures.relative],
        "categories": {
            one.name: {
                "questions": one.num_questions,
                "scores": _by_name(marked, one.scores),
                "differences_to_first": _by_name(marked[1:], one.differences),
            }
            for one in figures.categories
        },
        "remarks": comparison.remarks,
        "read": list(read),
        "questions": [
            {
                **asdict(question),
                "disagreeing": comparison.disagrees(number),
                "answers": {name: asdict(row[number]) for name, row in zip(names, comparison.cells, strict=True)},
            }
            for number, question in enumerate(comparison.questions[:max_answers])
        ],
    }


def _run(run: EvaluatedRun, figures: RunFigures) -> dict[str, Any]:
    return {
        "name": run.name,
        "model": run.model,
        "file": str(run.path),
        "content": run.content,
        "score": figures.score.as_json(),
        "outcomes": dict(figures.counts),
        "words_an_answer": figures.num_words,
        "figures": {name: asdict(figure) for name, figure in run.figures.items()},
    }


def _relative(one: Relative, names: Sequence[str]) -> dict[str, Any]:
    return {
        "first": names[one.first],
        "second": names[one.second],
        "percent": {name: asdict(figure) for name, figure in one.by_category.items()},
        "order_gap": asdict(one.order_gap) if one.order_gap else None,
    }


def _by_name(names: Sequence[str], estimates: Sequence[Estimate]) -> dict[str, Any]:
    """Returns estimates by the name of their run; empty without estimates."""
    return {name: estimate.as_json() for name, estimate in zip(names, estimates, strict=False)}


def _difference(one: RunDifference, names: Sequence[str]) -> dict[str, Any]:
    return {
        "first": names[one.first],
        "second": names[one.second],
        "difference": one.value.as_json(),
        "first_better": one.first_better,
        "second_better": one.second_better,
        "same": one.same,
    }
