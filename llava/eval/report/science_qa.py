"""Reads ScienceQA for the report: marks answers by the scorer's own rule, and reads the scorer's list of answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llava.errors import DataError
from llava.eval.data.records import normal_id, some
from llava.eval.report.run import EvaluatedRun
from llava.eval.science_qa.columns import COLUMNS
from llava.eval.science_qa.dataset import OPTIONS, Problem, ScienceQA, open_science_qa
from llava.eval.science_qa.marks import FAILED, Mark, ScienceQaAnswers, mark
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import json_type


@dataclass(frozen=True)
class ScienceQATest:
    """The problems of a split, by which answers are marked."""

    base_dir: str
    split: str

    @cached_property
    def data(self) -> ScienceQA:
        return open_science_qa(self.base_dir)

    @cached_property
    def problems(self) -> list[Problem]:
        return self.data.split(self.split)

    @property
    def images(self) -> Path:
        """Folder of the split's images in the authors' archive."""
        return self.data.folder / "images" / self.split

    def marked(self, run: EvaluatedRun) -> EvaluatedRun:
        """Marks a run by the rule of `eval_science_qa`: an answer that is missing or names no choice is wrong.

        Raises:
            DataError: the data set is malformed, or an answer belongs to no problem of the split.
        """
        prompts = {identity: one.question for identity, one in run.marks.items() if one.question is not None}
        texts = {identity: one.text for identity, one in run.marks.items() if one.text is not None}
        sheet = mark(self.data, self.problems, ScienceQaAnswers(run.path, texts, prompts, []), tuple(OPTIONS))
        if sheet.unknown:
            raise DataError(
                f"{run.places[sheet.unknown[0]]}: not a problem of split {self.split!r}, and neither are "
                f"{len(sheet.unknown) - 1} other answers. Give the --split that was asked."
            )
        marks = {one.problem.id: _as_mark(one, prompts) for one in sheet.marks}
        missing = [identity for identity, one in marks.items() if one.text is None]
        remarks = (f"{len(missing):,} without an answer, counted as wrong: {some(missing)}",) if missing else ()
        places = {identity: f"{run.path}: question {identity}" for identity in marks} | run.places
        return replace(
            run,
            content="answers, marked as ScienceQA",
            marks=marks,
            places=places,
            is_marked=True,
            benchmark="ScienceQA",
            categories=tuple(COLUMNS),
            remarks=run.remarks + remarks,
        )


def _as_mark(one: Mark, prompts: Mapping[str, str]) -> MarkedAnswer:
    problem = one.problem
    return MarkedAnswer(
        question_id=problem.id,
        text=one.text,
        score=float(one.is_correct),
        parsed=one.letter,
        target=f"{OPTIONS[problem.answer]}. {problem.choices[problem.answer]}",
        question=prompts.get(problem.id) or _asked(problem),
        image=problem.image_path,
        categories=tuple(name for name, belongs in COLUMNS.items() if name != "Avg" and belongs(problem)),
    )


def _asked(problem: Problem) -> str:
    choices = [f"{letter}. {choice}" for letter, choice in zip(OPTIONS, problem.choices, strict=False)]
    return "\n".join([problem.question, *([problem.hint] if problem.hint else []), *choices])


def marks_of_analysis(content: dict[str, Any], path: Path) -> dict[str, MarkedAnswer]:
    """Reads what `eval_science_qa --output-file` wrote, in the order of the ids.

    Raises:
        DataError: an entry is not what the scorer writes. The message names the file, the list and the place in it.
    """
    marks = {}
    for name, score in (("correct", 1.0), ("incorrect", 0.0)):
        for number, entry in enumerate(content[name], start=1):
            one = _analysed(entry, score, f"{path}: {name} {number}")
            if one.question_id in marks:
                raise DataError(f"{path}: {name} {number}: question {one.question_id} occurs twice.")
            marks[one.question_id] = one
    if not marks:
        raise DataError(f"{path}: contains no answers.")
    ids = sorted(marks, key=lambda identity: (not identity.isdecimal(), int(identity) if identity.isdecimal() else 0))
    return {identity: marks[identity] for identity in ids}


def _analysed(entry: Any, score: float, place: str) -> MarkedAnswer:
    if not isinstance(entry, dict):
        raise DataError(f"{place}: is a JSON {json_type(entry)}, expected an object.")
    identity = normal_id(entry.get("question_id"), f"{place}: 'question_id'")
    for field in ("parsed_ans", "ground_truth", "question", "pred"):
        if not isinstance(entry.get(field), str):
            raise DataError(f"{place} (question {identity}): {field!r} is missing or not a string.")
    parsed, text, question = entry["parsed_ans"], entry["pred"], entry["question"]
    return MarkedAnswer(
        question_id=identity,
        text=None if text == FAILED else text,
        score=score,
        parsed=None if parsed == FAILED else parsed,
        target=entry["ground_truth"],
        question=None if question == "Unknown" else question,
        categories=("with image",) if entry.get("is_multimodal") else ("without image",),
    )
