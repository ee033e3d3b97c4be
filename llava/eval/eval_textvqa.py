"""Scores answers to TextVQA: how far ten people agree with each answer, in percent.

An answer is matched by its image and question; the question is taken from the prompt that the answer records. Pass one
answer file, or a folder of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, annotation_texts, compound_id, joined, locate, read_annotations
from llava.eval.scoring.answers import answers_to
from llava.eval.scoring.estimates import Estimate, Part, ratio
from llava.eval.scoring.marks import MarkedAnswer
from llava.eval.scoring.scorer import FileFlag, ScoredRun, Scorer, ScorerInput
from llava.eval.scoring.short_answers import NUM_PEOPLE, mark_by_people, server_accuracy, server_form
from llava.files.json_files import read_jsonl


@dataclass(frozen=True, slots=True)
class TextVqaQuestion:
    """One question and the answers of ten people."""

    id: str
    """The id in the annotations."""
    image: str
    """Id of the image."""
    text: str
    """Text of the question."""
    people: tuple[str, ...]
    """The answers of ten people."""

    @property
    def key(self) -> tuple[str, str]:
        """What answers are matched by."""
        return self.image, self.text.lower()


def read(annotation_file: str, result_file: str | None, result_dir: str | None) -> list[ScorerInput[TextVqaQuestion]]:
    """Reads the questions and every answer file."""
    files = _files(result_file, result_dir)
    questions = read_questions(annotation_file)
    ids = [one.id for one in questions]
    return [
        ScorerInput(questions, answers_to(ids, read_results(file, questions), source=annotation_file)) for file in files
    ]


def _files(result_file: str | None, result_dir: str | None) -> list[Path]:
    files = [locate(result_file)] if result_file else []
    if result_dir:
        folder = locate(result_dir)
        found = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
        if not found:
            raise DataError(f"{folder}: has no *.jsonl. Pass the folder of the answer files.")
        files += found
    if not files:
        raise InvalidRequest("pass --result-file or --result-dir: the answers to score.")
    return files


def read_questions(path: str) -> list[TextVqaQuestion]:
    """Reads the annotations.

    Raises:
        DataError: the file has another form, or a question lacks a field or its ten answers.
    """
    questions = []
    last: dict[tuple[str, str], tuple[str, ...]] = {}
    for place, record in read_annotations(path, within="data"):
        identity, image, text = annotation_texts(record, place, "question_id", "image_id", "question")
        people = record.get("answers")
        if not isinstance(people, list) or len(people) != NUM_PEOPLE:
            raise DataError(
                f"{place}: 'answers' must be a list of {NUM_PEOPLE} texts. The test split has none: submit the answers."
            )
        questions.append(TextVqaQuestion(identity, image, text, tuple(map(str, people))))
        last[questions[-1].key] = questions[-1].people
    # If a question appears twice, the published figures use its last annotation only.
    return [replace(one, people=last[one.key]) for one in questions]


def read_results(path: Path, questions: Sequence[TextVqaQuestion]) -> Joined:
    """Reads the answers of a file by question id; an answer to an unknown question gets its image and text as id.

    Raises:
        DataError: a record has no image or prompt, or the prompt has no known form; names file and line.
    """
    waiting: dict[tuple[str, str], list[str]] = {}
    for question in questions:
        waiting.setdefault(question.key, []).append(question.id)

    def identity(record: dict[str, Any], place: str) -> str:
        image, prompt = annotation_texts(record, place, "question_id", "prompt")
        asked = question_in(prompt, place)
        ids = waiting.get((image, asked), [compound_id(image, asked)])
        # A question that appears twice has two answers; any further answer is a duplicate of the last one.
        return ids.pop(0) if len(ids) > 1 else ids[0]

    return joined(read_jsonl(path), path, key=identity)


def question_in(prompt: str, place: str) -> str:
    """Returns the question in a prompt, in lower case.

    Known forms: the question and one more line, with or without a line `Reference OCR token: ...` before or between
    them; and `OCR tokens: ... Question: ... Short answer:`.

    Raises:
        DataError: the prompt has another form; `place` begins the message.
    """
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if found:
            return found[1].lower()
    lines = prompt.split("\n")
    if len(lines) == 3 and "Reference OCR token: " in prompt:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise DataError(
        f"{place}: 'prompt' has {len(lines)} lines in an unknown form. Expected the question, optionally the "
        "recognised text (`Reference OCR token: ...`), and a line on how to answer."
    )


def mark(question: TextVqaQuestion, text: str | None) -> MarkedAnswer:
    """Marks the answer to a question."""
    return mark_by_people(
        question.id,
        text,
        question.people,
        accuracy=server_accuracy,
        form=server_form,
        question=question.text,
        image=question.image,
    )


def figures(questions: Sequence[TextVqaQuestion], marks: Sequence[MarkedAnswer]) -> list[Estimate]:
    """Returns the accuracy in percent."""
    return [ratio("accuracy", [Part(one.score or 0.0, group=one.image) for one in marks])]


def original_report(scored: ScoredRun[TextVqaQuestion]) -> str:
    """Returns what the original prints for a file."""
    accuracy = scored.estimates[0].value
    return f"{scored.answers.path.stem}\nSamples: {len(scored.answers.texts)}\nAccuracy: {accuracy:.2f}%\n"


SCORER = Scorer(
    "TextVQA",
    flags=(
        FileFlag(("--annotation-file",), "Annotations of the benchmark (TextVQA_0.5.1_val.json)."),
        FileFlag(("--result-file",), "Answers of the model (JSON Lines).", is_required=False),
        FileFlag(("--result-dir",), "Folder whose *.jsonl are scored one by one.", is_required=False, is_folder=True),
    ),
    read=read,
    mark=mark,
    figures=figures,
    original_report=original_report,
)
add_arguments, main = SCORER.add_arguments, SCORER.main

if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
