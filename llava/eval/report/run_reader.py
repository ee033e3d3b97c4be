"""Reads the files of evaluators and scorers as runs that can be compared.

A run is a file of answers (from `model_vqa` or a similar command), a file of marked answers (a scorer's `--output`, the
`--output-file` of `eval_science_qa`), or one side of a file of reviews (`llava.eval.report.reviews`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import joined, locate, some
from llava.eval.report.reviews import holds_reviews, review_runs
from llava.eval.report.run import EvaluatedRun, FigureWithInterval
from llava.eval.report.science_qa import ScienceQATest, marks_of_analysis
from llava.eval.scoring.marks import MarkedAnswer, holds_marks, parse_marks
from llava.files.json_files import Line, json_type, read_json, read_jsonl, read_text


@dataclass(frozen=True)
class RunSource:
    """A file that the user gave, and the name of its run if the user gave one."""

    path: Path
    name: str | None


def source_of(word: str) -> RunSource:
    """Parses `FILE` or `NAME=FILE`.

    Raises:
        DataError: the file does not exist.
    """
    name, equals, rest = word.partition("=")
    if equals and name and not Path(word).exists():
        return RunSource(locate(rest, remedy=_REMEDY), name)
    return RunSource(locate(word, remedy=_REMEDY), None)


_REMEDY = "Give a file that an evaluator or a scorer wrote, or NAME=FILE."


def read_runs(source: RunSource, science_qa: ScienceQATest | None) -> list[EvaluatedRun]:
    """Reads a file of any kind: one run, or the two sides of reviews.

    Args:
        science_qa: marks plain answers; None leaves them without marks.

    Raises:
        DataError: the file is of an unknown kind or malformed. The message names file, line and id.
        InvalidRequest: the file can be shown only together with a flag that is not given.
    """
    if source.path.is_dir():
        raise DataError(f"{source.path}: is a folder, not a file. {_REMEDY}")
    content = _one_value(source.path)
    if content is None:
        lines = read_jsonl(source.path)
        if holds_reviews(lines):
            return review_runs(source.path, source.name)
        run = _from_answers(source, lines)
        return [science_qa.marked(run) if science_qa else run]
    if holds_marks(content):
        return [_from_scorer(source, content)]
    if isinstance(content.get("correct"), list) and isinstance(content.get("incorrect"), list):
        return [_from_analysis(source, content)]
    if isinstance(content.get("outputs"), dict):
        if science_qa is None:
            raise InvalidRequest(
                f"{source.path}: a result file of ScienceQA does not contain the questions. Give --base-dir, the "
                "folder of ScienceQA, or give the file of eval_science_qa --output-file instead."
            )
        return [science_qa.marked(_from_result(source, content))]
    fields = f"it has the fields {', '.join(map(repr, list(content)[:6]))}" if content else "it has no fields"
    raise DataError(f"{source.path}: neither answers (JSON Lines), nor reviews, nor the output of a scorer; {fields}.")


def _from_answers(source: RunSource, lines: Sequence[Line]) -> EvaluatedRun:
    found = joined(told_apart(lines, key="question_id", text="prompt"), source.path, key="question_id")
    marks, ids = {}, {}
    for identity, line in found.lines.items():
        answer_id, prompt = line.record.get("answer_id"), line.record.get("prompt")
        marks[identity] = MarkedAnswer(
            identity,
            found.text(identity, "text"),
            None,
            question=prompt if isinstance(prompt, str) else None,
            image=_first_name(line.record.get("image")),
            categories=_category(line.record.get("category")),
        )
        if isinstance(answer_id, str):
            ids[identity] = answer_id
    twice = f"answered more than once: {len(found.duplicates):,} ({some(found.duplicates)}); the last answer counts"
    models = {name for line in found.lines.values() if isinstance(name := line.record.get("model_id"), str) and name}
    return EvaluatedRun(
        source.name or "",
        source.path,
        "answers",
        marks,
        {identity: found.place(identity) for identity in found.lines},
        is_marked=False,
        model=models.pop() if len(models) == 1 else None,
        answer_ids=ids,
        remarks=(twice,) if found.duplicates else (),
    )


def told_apart(lines: Sequence[Line], *, key: str, text: str) -> list[Line]:
    """Gives different questions that share an id their own ids: `id | round` or `id | text`.

    Some benchmarks use the id of an image for several questions, and some ask one question in several rounds.
    """
    rounds: dict[Any, set[Any]] = {}
    texts: dict[Any, set[Any]] = {}
    for _, record in lines:
        identity = str(record.get(key)).strip()
        rounds.setdefault(identity, set()).add(str(record.get("round_id")))
        texts.setdefault(identity, set()).add(str(record.get(text)))
    renamed = []
    for line in lines:
        identity = str(line.record.get(key)).strip()
        if key in line.record and len(rounds[identity]) > 1:
            line = line._replace(record={**line.record, key: f"{identity} | {line.record.get('round_id')}"})
        elif key in line.record and len(texts[identity]) > 1:
            line = line._replace(record={**line.record, key: f"{identity} | {line.record.get(text)}"})
        renamed.append(line)
    return renamed


def named(runs: Sequence[EvaluatedRun]) -> list[EvaluatedRun]:
    """Gives every run a unique name: the user's, else the model's, else the file's, extended if two are equal.

    Raises:
        InvalidRequest: the user gave a name or a file twice.
    """
    given = [run.name for run in runs if run.name]
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise InvalidRequest(f"two runs are called {twice!r}. Give each its own name: NAME=FILE.")
    wishes: list[Callable[[EvaluatedRun], str]] = [
        lambda run: run.name or (Path(run.model).name if run.model else run.short),
        lambda run: run.name or (f"{Path(run.model).name} ({run.short})" if run.model else run.short),
        lambda run: run.name or f"{run.path.parent.name}/{run.short}",
        lambda run: run.name or f"{run.path.parent}/{run.short}",
    ]
    for wish in wishes:
        names = [wish(run) for run in runs]
        if len(set(names)) == len(names):
            break
    else:
        raise InvalidRequest(f"{next(n for n in names if names.count(n) > 1)}: given twice. Give each run once.")
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def _one_value(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file; None for a JSON Lines file."""
    start = read_text(path).lstrip()
    if not start:
        raise DataError(f"{path}: the file is empty.")
    if start.startswith("["):
        raise DataError(f"{path}: a JSON list, which no evaluator writes. Give questions with --question-file.")
    if _is_lines(start):
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: contains a JSON {json_type(content)}, expected an object. {_REMEDY}")
    return content


def _is_lines(text: str) -> bool:
    first, _, rest = text.partition("\n")
    try:
        record = json.loads(first)
    except json.JSONDecodeError:  # a line that was cut off, or the first line of an object over many lines
        return '"question_id"' in first and '"marks"' not in first
    return isinstance(record, dict) and (bool(rest.strip()) or "question_id" in record)


def _from_scorer(source: RunSource, content: dict[str, Any]) -> EvaluatedRun:
    sheet = parse_marks(content, source.path)
    marks = {mark.question_id: mark for mark in sheet.marks}
    estimates = content.get("estimates")
    intervals = estimates if isinstance(estimates, dict) else {}
    return EvaluatedRun(
        source.name or "",
        source.path,
        f"marks of {sheet.benchmark}",
        marks,
        {identity: f"{source.path}: mark {n} (question {identity})" for n, identity in enumerate(marks, start=1)},
        is_marked=True,
        benchmark=sheet.benchmark,
        model=sheet.model,
        figures={
            name: FigureWithInterval(value, *_interval(intervals.get(name))) for name, value in sheet.figures.items()
        },
    )


def _interval(estimate: Any) -> tuple[float | None, float | None]:
    """Returns the interval that a scorer gives with a figure, if it gives one."""
    ends = estimate.get("interval_95") if isinstance(estimate, dict) else None
    if isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends):
        return float(ends[0]), float(ends[1])
    return None, None


def _from_analysis(source: RunSource, content: dict[str, Any]) -> EvaluatedRun:
    marks = marks_of_analysis(content, source.path)
    return EvaluatedRun(
        source.name or "",
        source.path,
        "marks of ScienceQA",
        marks,
        {identity: f"{source.path}: question {identity}" for identity in marks},
        is_marked=True,
        benchmark="ScienceQA",
    )


def _from_result(source: RunSource, content: dict[str, Any]) -> EvaluatedRun:
    marks = {}
    for identity, text in content["outputs"].items():
        if not isinstance(text, str):
            raise DataError(f"{source.path}: output of {identity} is a JSON {json_type(text)}, expected a string.")
        marks[identity] = MarkedAnswer(identity, text, None)
    places = {identity: f"{source.path}: output of {identity}" for identity in marks}
    return EvaluatedRun(source.name or "", source.path, "answers", marks, places, is_marked=False)


def _first_name(value: Any) -> str | None:
    name = value[0] if isinstance(value, list) and value else value
    return name if isinstance(name, str) and not name.startswith("data:") else None


def _category(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else ()
