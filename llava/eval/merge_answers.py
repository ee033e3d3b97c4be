"""Merges the answers of several processes into one file, in the order of the questions.

The file is written only if every question is answered exactly once. Questions are identified by their id, or by id and
text if several share an id (as MME's two questions about an image do). A duplicate question counts once.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.questions import distinct, key_of, read_vqa
from llava.eval.data.records import Joined, id_of, joined, locate, read_questions, some
from llava.files.json_files import read_jsonl, read_text, write_jsonl

_START_AGAIN = "Runs with different numbers of processes cannot be mixed: delete the files and start again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("chunks", nargs="+", metavar="FILE", help="Answers of one process (JSON Lines); may be empty.")
    parser.add_argument(
        "--question-file",
        required=True,
        metavar="FILE",
        help="All questions (JSON list with `id`, or JSON Lines with `question_id`).",
    )
    parser.add_argument("--answers-file", required=True, metavar="FILE", help="Output file (JSON Lines).")


def main(args: argparse.Namespace) -> int:
    merge(args.chunks, args.question_file, args.answers_file)
    return 0


def merge(chunk_files: Sequence[str], question_file: str, target: str) -> None:
    """Writes the answers of all chunk files to `target`.

    Raises:
        InvalidRequest: a chunk file is given twice.
        DataError: a file has another form, or not every question is answered exactly once.
    """
    if twice := [name for name, number in Counter(chunk_files).items() if number > 1]:
        raise InvalidRequest(f"{some(twice)}: given more than once. Name each answer file once.")
    path = locate(question_file)
    questions, shared = _asked(path)
    chunks = [_answers(chunk, shared) for chunk in map(Path, chunk_files) if read_text(chunk).strip()]
    answers = merged(path, questions, chunks)
    write_jsonl(target, answers)
    print(f"{target}: {len(answers)} answers from {len(chunk_files)} files")


def _asked(path: Path) -> tuple[list[str], set[str]]:
    """Returns the names of the questions in order, and the ids that several of them share.

    Raises:
        DataError: the file has another form, or two questions cannot be told apart.
    """
    found = read_questions(path)
    if not found.duplicates:
        return list(found.lines), set()
    if found.unit != "line":
        raise DataError(f"{path}: duplicate questions: {some(found.duplicates)}. Remove the duplicates.")
    keys = [question.key for question in distinct(read_vqa(path))]
    num_questions = Counter(identity for identity, _, _ in keys)
    shared = {identity for identity, number in num_questions.items() if number > 1}
    return [_name(identity, text) if identity in shared else identity for identity, _, text in keys], shared


def _answers(path: Path, shared: Collection[str]) -> Joined:
    """Reads the answers of a file by the names of their questions.

    Raises:
        DataError: the file is not JSON Lines, a record has no id, or it has no prompt although its id is shared.
    """

    def name(record: dict[str, Any], place: str) -> str:
        identity = id_of(record, "question_id", place)
        if identity not in shared:
            return identity
        _, _, text = key_of(record, f"{place} (question {identity})")
        return _name(identity, text)

    return joined(read_jsonl(path), path, key=name)


def _name(identity: str, text: str) -> str:
    return f"{identity} {text!r}"


def merged(path: Path, questions: Collection[str], chunks: list[Joined]) -> list[dict[str, Any]]:
    """Returns the answers in the order of the questions.

    Args:
        path: the question file, for error messages.
        questions: names of the questions.
        chunks: the answers of each file.

    Raises:
        DataError: a question has no answer or several, or an answer has no question; names ids and files.
    """
    asked = set(questions)
    found: dict[str, Joined] = {}
    for chunk in chunks:
        if chunk.duplicates:
            raise DataError(f"{chunk.path}: answers {some(chunk.duplicates)} more than once. {_START_AGAIN}")
        if unknown := [identity for identity in chunk.lines if identity not in asked]:
            raise DataError(
                f"{chunk.path}: answers that match no question in {path}: {len(unknown)} ({some(unknown)}). "
                "Pass the question file that was answered, or leave this file out."
            )
        if twice := [identity for identity in chunk.lines if identity in found]:
            raise DataError(
                f"{chunk.path}: questions that {found[twice[0]].path} answers too: {len(twice)} ({some(twice)}). "
                f"{_START_AGAIN}"
            )
        found.update(dict.fromkeys(chunk.lines, chunk))
    if missing := [identity for identity in questions if identity not in found]:
        raise DataError(
            f"{path}: questions without an answer: {len(missing)} of {len(questions)} "
            f"({some(missing)}). Let all processes finish, or run them again to answer the rest."
        )
    return [found[identity].lines[identity].record for identity in questions]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
