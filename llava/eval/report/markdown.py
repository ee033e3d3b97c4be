"""Renders the report as Markdown: the tables, and the answers that readers will want to see first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llava.eval.report.comparison import RIGHT, ComparedAnswer, ComparedQuestion, Comparison
from llava.eval.report.figures import ReportFigures
from llava.eval.report.tables import sections_of
from llava.reports.document import Document, Section
from llava.reports.rendering import as_markdown, escaped, section_as_markdown

ANSWERS: Final = 20
"""Questions that are shown with their answers unless the user chooses a number."""


def report_as_markdown(
    comparison: Comparison, figures: ReportFigures, *, title: str, read: Sequence[str], max_answers: int | None = None
) -> str:
    """Returns the whole file.

    Args:
        read: what else was read, a sentence each.
        max_answers: number of questions that are shown with their answers. Those that every run got right are not.
    """
    introduction = f"{comparison.benchmark}: {len(comparison.questions):,} questions"
    sections = sections_of(comparison, figures)
    if comparison.remarks:
        sections.append(Section("What to know", notes=comparison.remarks))
    runs = [f"{run.name}: {run.content}, {len(run.marks):,} questions, {run.path}" for run in comparison.runs]
    parts = [
        as_markdown(Document(title, introduction, sections)),
        *_answers(comparison, ANSWERS if max_answers is None else max_answers),
        section_as_markdown(Section("What was read", notes=[*runs, *read])),
    ]
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


def _facts(question: ComparedQuestion) -> list[str]:
    facts = [_quoted(question.text or "")]
    if question.image:
        facts.append(f"Image: {escaped(question.image)}")
    if question.target:
        facts.append(f"Right: {_one_line(question.target)}")
    return facts


def _outcome(answer: ComparedAnswer) -> str:
    return answer.outcome if answer.parsed is None else f"{answer.outcome}; understood: {_one_line(answer.parsed)}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {escaped(line)}".rstrip() for line in text.splitlines())


def _one_line(text: str) -> str:
    return escaped(" ".join(text.split()))
