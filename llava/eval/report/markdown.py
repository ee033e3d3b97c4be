"""The report as Markdown: the tables, and the answers that a reader will want to see first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llava.eval.report.comparison import RIGHT, Cell, Comparison, Question
from llava.eval.report.figures import Figures
from llava.eval.report.tables import tables_of
from llava.reports.tables import escaped, markdown

ANSWERS: Final = 20
"""Shown where the user does not say how many."""


def as_markdown(
    comparison: Comparison, figures: Figures, *, title: str, read: Sequence[str], max_answers: int | None = None
) -> str:
    """The whole file.

    Args:
        max_answers: questions that are shown with their answers, first of all those that not all runs got right.
    """
    total = len(comparison.questions)
    parts = [f"# {escaped(title)}", escaped(f"{comparison.benchmark}: {total:,} questions")]
    for table in tables_of(comparison, figures):
        parts.append(f"## {escaped(table.title)}")
        parts += [escaped(table.explanation)] if table.explanation else []
        parts.append(markdown([escaped(cell) for cell in table.head], table.rows, {0}))
    if comparison.remarks:
        parts += ["## What to know", _list(comparison.remarks)]
    parts += _answers(comparison, ANSWERS if max_answers is None else max_answers)
    runs = [f"{run.name}: {run.content}, {len(run.marks):,} questions, {run.path}" for run in comparison.runs]
    parts += ["## What was read", _list([*runs, *read])]
    return ("\n\n".join(parts) + "\n").encode("utf-8", "replace").decode("utf-8")


def _answers(comparison: Comparison, most: int) -> list[str]:
    numbers = [n for n in range(len(comparison.questions)) if any(row[n].outcome != RIGHT for row in comparison.cells)]
    chosen = numbers[:most]
    if not chosen:
        return []
    heading = f"## Answers: {len(chosen):,} of the {len(numbers):,} questions that not every run got right"
    if not comparison.is_marked:
        heading = f"## Answers: {len(chosen):,} of {len(numbers):,} questions"
    return [heading, *(_question(comparison, number) for number in chosen)]


def _question(comparison: Comparison, number: int) -> str:
    question = comparison.questions[number]
    parts = [f"### Question {escaped(question.id)}", *_facts(question)]
    for run, row in zip(comparison.runs, comparison.cells, strict=True):
        parts += [f"**{escaped(run.name)}** ({_outcome(row[number])})", _quoted(row[number].text or "")]
    return "\n\n".join(part for part in parts if part)


def _facts(question: Question) -> list[str]:
    facts = [_quoted(question.text or "")]
    if question.image:
        facts.append(f"Image: {escaped(question.image)}")
    if question.target:
        facts.append(f"Right: {_one_line(question.target)}")
    return facts


def _outcome(cell: Cell) -> str:
    return cell.outcome if cell.parsed is None else f"{cell.outcome}; understood: {_one_line(cell.parsed)}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {escaped(line)}".rstrip() for line in text.splitlines())


def _one_line(text: str) -> str:
    return escaped(" ".join(text.split()))


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_one_line(line)}" for line in lines)
