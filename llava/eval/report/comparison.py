"""Lays runs side by side: all their questions, in one order, and what each run answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, joined, read_questions, some
from llava.eval.report.run import PERCENT, EvaluatedRun
from llava.eval.report.run_reader import told_apart
from llava.eval.scoring.marks import MarkedAnswer
from llava.files.json_files import read_jsonl

RIGHT, PARTLY, WRONG = "right", "partly right", "wrong"
BETTER, EVEN, WORSE = "better", "even", "worse"
UNPARSABLE, MISSING, NOT_MARKED = "unparsable", "missing", "not marked"
OUTCOMES = (RIGHT, PARTLY, WRONG, BETTER, EVEN, WORSE, UNPARSABLE, MISSING, NOT_MARKED)
"""All outcomes in the order in which they are shown. BETTER, EVEN and WORSE are those of reviews."""

FEW_IMAGES = 10
"""Fewer images are too few for intervals: if questions share images, each image is only one observation."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in a question file."""

    text: str | None
    target: str | None
    image: str | None
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComparedQuestion:
    """A question and what all runs agree on about it."""

    id: str
    text: str | None
    target: str | None
    """The correct answer, as a reader should see it."""
    image: str | None
    """Name of the image."""
    categories: tuple[str, ...]
    note: str | None
    """A note on all answers to the question at once."""


@dataclass(frozen=True, slots=True)
class ComparedAnswer:
    """The answer of one run to one question."""

    text: str | None
    outcome: str
    """One of OUTCOMES."""
    score: float | None
    """Score from 0 to 1; None if the answer counts in no figure."""
    parsed: str | None
    """What the scorer understood."""
    note: str | None
    """A note on this answer alone."""
    prompt: str | None
    """What this run was asked, if that differs from the text of the question."""


@dataclass(frozen=True)
class Comparison:
    """The content of a report."""

    benchmark: str
    runs: list[EvaluatedRun]
    questions: list[ComparedQuestion]
    cells: list[list[ComparedAnswer]]
    """The answers by run, then by question."""
    remarks: list[str]
    """What readers must know, a sentence each."""

    @property
    def scale(self) -> float:
        """What the highest score is shown as."""
        return next((run.scale for run in self.runs if run.is_marked), PERCENT)

    @property
    def is_marked(self) -> bool:
        """Whether any run has marks."""
        return any(run.is_marked for run in self.runs)

    @property
    def categories(self) -> list[str]:
        """All categories, in their customary order if there is one."""
        found = dict.fromkeys(name for question in self.questions for name in question.categories)
        customary = [name for run in self.runs for name in run.categories if name in found]
        return list(dict.fromkeys([*customary, *found]))

    @property
    def outcomes(self) -> list[str]:
        """The outcomes that occur."""
        found = {cell.outcome for cells in self.cells for cell in cells}
        return [outcome for outcome in OUTCOMES if outcome in found]

    def disagrees(self, number: int) -> bool:
        """Returns whether the runs gave different answers to a question, as far as their scorer can tell."""
        cells = [cells[number] for cells in self.cells]
        texts = {" ".join((cell.text or "").casefold().split()) for cell in cells}
        if any(cell.outcome == NOT_MARKED for cell in cells):
            return len(texts) > 1
        return len({(cell.parsed, cell.score) for cell in cells}) > 1


def compare(
    runs: Sequence[EvaluatedRun], asked: Mapping[str, Asked] | None = None, asked_in: Path | None = None
) -> Comparison:
    """Joins runs by question id.

    Args:
        runs: at least one, with different names.
        asked: the questions of the question file `asked_in`. If given, they determine which questions are compared.

    Raises:
        InvalidRequest: the runs are of different benchmarks.
        DataError: an answer belongs to no question of the question file, runs have no question in common, or runs
            contradict each other about a question. The message names file, line and id.
    """
    runs = list(runs)
    _check_benchmarks(runs)
    _check_ids(runs, asked, asked_in)
    ids = list(asked) if asked is not None else _ids(runs)
    questions = [_question(identity, runs, asked) for identity in ids]
    cells = [[_cell(run.marks.get(question.id), question, run) for question in questions] for run in runs]
    cells = _against_each_other(runs, cells)
    benchmark = next((run.benchmark for run in runs if run.benchmark), "answers")
    return Comparison(benchmark, runs, questions, cells, _remarks(runs, questions, cells))


def read_asked(path: Path) -> dict[str, Asked]:
    """Reads a question file: JSON Lines with `question_id` and `text`, or a JSON list with `id` and `conversations`.

    Raises:
        DataError: the file is neither. The message names file and line (or record).
    """
    found = read_questions(path)
    if found.unit == "line":
        # Questions that share an id are told apart in the same way as their answers.
        lines = told_apart(read_jsonl(path), key="question_id", text="text")
        found = joined(lines, path, key="question_id")
    return {identity: _asked(line.record, found, identity) for identity, line in found.lines.items()}


def _asked(record: dict[str, Any], found: Joined, identity: str) -> Asked:
    turns = record.get("conversations")
    texts: list[str | None]
    if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
        texts = [_text(turn.get("value")) for turn in turns[:2]]
    elif isinstance(record.get("text"), str):
        texts = [record["text"]]
    else:
        raise DataError(f"{found.place(identity)}: has neither 'text' nor 'conversations'. Is this a question file?")
    image = record.get("image")
    name = image[0] if isinstance(image, list) and image else image
    category = record.get("category")
    return Asked(
        texts[0],
        texts[1] if len(texts) > 1 else None,
        name if isinstance(name, str) and not name.startswith("data:") else None,
        (category,) if isinstance(category, str) else (),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _check_benchmarks(runs: Sequence[EvaluatedRun]) -> None:
    marked = [run for run in runs if run.benchmark]
    for run in marked[1:]:
        if run.benchmark != marked[0].benchmark:
            raise InvalidRequest(
                f"{marked[0].path} is of {marked[0].benchmark}, {run.path} of {run.benchmark}. "
                "Make one report per benchmark."
            )


def _check_ids(runs: Sequence[EvaluatedRun], asked: Mapping[str, Asked] | None, asked_in: Path | None) -> None:
    for run in runs:
        if asked is not None and (unknown := [identity for identity in run.marks if identity not in asked]):
            others = f" (and neither are {len(unknown) - 1} others)" if len(unknown) > 1 else ""
            raise DataError(
                f"{run.places[unknown[0]]}: not a question of {asked_in}{others}. "
                "Give the question file that was answered."
            )
    for run in runs[1:]:
        if not runs[0].marks.keys() & run.marks.keys():
            raise DataError(
                f"{run.path} answers none of the questions of {runs[0].path}: the first are "
                f"{some(list(run.marks), 3)}, and {some(list(runs[0].marks), 3)}. Give runs on the same questions."
            )


def _ids(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Returns the ids of all questions, in the order of the run that has the most."""
    longest = max(runs, key=lambda run: len(run.marks))
    return list(dict.fromkeys([*longest.marks, *(identity for run in runs for identity in run.marks)]))


def _question(identity: str, runs: Sequence[EvaluatedRun], asked: Mapping[str, Asked] | None) -> ComparedQuestion:
    found = [(run, run.marks[identity]) for run in runs if identity in run.marks]
    in_file = asked[identity] if asked is not None else None
    marks = [mark for _, mark in found]
    target = _agreed([(run, mark.target) for run, mark in found], identity)
    notes = {mark.note for mark in marks}
    of_all = notes.pop() if len(notes) == 1 and len(marks) == len(runs) > 1 else None
    return ComparedQuestion(
        identity,
        _first([in_file.text if in_file else None, *(mark.question for mark in marks)]),
        target or (in_file.target if in_file else None),
        _first([*(mark.image for mark in marks), in_file.image if in_file else None]),
        _first([*(mark.categories for mark in marks), in_file.categories if in_file else ()]) or (),
        of_all,
    )


def _agreed(targets: list[tuple[EvaluatedRun, str | None]], identity: str) -> str | None:
    """Returns the correct answer, about which the runs must not contradict each other."""
    known = [(run, target) for run, target in targets if target is not None]
    for run, target in known[1:]:
        if target != known[0][1]:
            raise DataError(
                f"{run.places[identity]}: the correct answer is {target!r}, but {known[0][1]!r} in {known[0][0].path}. "
                "The two runs were marked with different versions of the benchmark."
            )
    return known[0][1] if known else None


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if value), None)


def _cell(mark: MarkedAnswer | None, question: ComparedQuestion, run: EvaluatedRun) -> ComparedAnswer:
    if mark is None:
        return ComparedAnswer(None, MISSING, None, None, None, None)
    prompt = mark.question if mark.question and mark.question != question.text else None
    outcome = mark.outcome if run.is_marked or mark.text is None else NOT_MARKED
    note = None if question.note else mark.note
    return ComparedAnswer(mark.text, outcome, mark.score, mark.parsed, note, prompt)


def _against_each_other(runs: Sequence[EvaluatedRun], cells: list[list[ComparedAnswer]]) -> list[list[ComparedAnswer]]:
    """Sets the outcomes of reviews, which are not right or wrong, by how a run compares with the best other run."""
    if all(run.scale == PERCENT for run in runs):
        return cells
    judged = []
    for number, row in enumerate(cells):
        rivals = [cells[other] for other in range(len(runs)) if other != number]
        judged.append([_beside(cell, [rival[q].score for rival in rivals]) for q, cell in enumerate(row)])
    return judged


def _beside(cell: ComparedAnswer, others: Sequence[float | None]) -> ComparedAnswer:
    known = [score for score in others if score is not None]
    if cell.score is None or not known:
        return cell
    best = max(known)
    return replace(cell, outcome=BETTER if cell.score > best else WORSE if cell.score < best else EVEN)


def _remarks(
    runs: Sequence[EvaluatedRun], questions: Sequence[ComparedQuestion], cells: Sequence[Sequence[ComparedAnswer]]
) -> list[str]:
    remarks = [f"{run.name}: {remark}" for run in runs for remark in run.remarks]
    for run, row in zip(runs, cells, strict=True):
        absent = [q.id for q in questions if q.id not in run.marks]
        if absent:
            remarks.append(f"{run.name}: no record of {len(absent):,} questions, which are not counted: {some(absent)}")
        unmarked = [q.id for q, cell in zip(questions, row, strict=True) if cell.outcome == NOT_MARKED]
        if run.is_marked and unmarked:
            remarks.append(f"{run.name}: {len(unmarked):,} answers without a mark, not counted: {some(unmarked)}")
        elif unmarked:
            remarks.append(f"{run.name}: the answers have no marks, so there is nothing to count")
        changed = [q.id for q, cell in zip(questions, row, strict=True) if cell.prompt]
        if changed:
            remarks.append(
                f"{run.name}: {len(changed):,} questions were asked in other words, shown there: {some(changed)}"
            )
    if any(run.is_marked for run in runs) and has_few_images(questions):
        remarks.append(f"the questions are about fewer than {FEW_IMAGES} images, too few for trustworthy intervals")
    return remarks


def has_few_images(questions: Sequence[ComparedQuestion]) -> bool:
    """Returns whether questions share images of which there are too few for trustworthy intervals."""
    images = Counter(question.image for question in questions if question.image)
    independent = len(images) + sum(question.image is None for question in questions)
    return bool(images) and max(images.values()) > 1 and independent < FEW_IMAGES
