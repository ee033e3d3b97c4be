"""Puts the answers of several processes into one file, in the order of the questions.

Nothing is written unless every question is answered exactly once. As for the generators, a question is its id; where
several share an id, as MME's two about an image do, the text tells them apart, and one that is repeated is one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.questions import distinct, key_of, read_vqa
from llava.eval.data.records import Joined, id_of, joined, locate, read_questions, some
from llava.files.json_files import read_jsonl, read_text, write_jsonl

_AGAIN = "Files of runs with different numbers of processes do not fit together: remove them and start again."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("chunks", nargs="+", metavar="FILE", help="answers of one process, JSON Lines; may be empty")
    parser.add_argument(
        "--question-file",
        required=True,
        metavar="FILE",
        help="all questions: a JSON list with `id`, or JSON Lines with `question_id`",
    )
    parser.add_argument(
        "--answers-file", required=True, metavar="FILE", help="the file to write, JSON Lines; its folder is made"
    )


def main(args: argparse.Namespace) -> int:
    if twice := [name for name, number in Counter(args.chunks).items() if number > 1]:
        raise InvalidRequest(f"{some(twice)}: given more than once. Name each file of answers once.")
    path = locate(args.question_file)
    questions, shared = _asked(path)
    chunks = [_answers(chunk, shared) for chunk in map(Path, args.chunks) if read_text(chunk).strip()]
    answers = merged(path, questions, chunks)
    write_jsonl(args.answers_file, answers)
    print(f"{args.answers_file}: {len(answers)} answers from {len(args.chunks)} files")
    return 0


def _asked(path: Path) -> tuple[list[str], set[str]]:
    """What the questions are called, in their order, and the ids that several of them share.

    Raises:
        DataError: not a file of questions, or two of them cannot be told apart.
    """
    found = read_questions(path)
    if not found.duplicates:
        return list(found.lines), set()
    if found.unit != "line":
        raise DataError(f"{path}: asks {some(found.duplicates)} more than once. Remove the repetitions.")
    keys = [question.key for question in distinct(read_vqa(path))]
    num_questions = Counter(identity for identity, _, _ in keys)
    shared = {identity for identity, number in num_questions.items() if number > 1}
    return [_name(identity, text) if identity in shared else identity for identity, _, text in keys], shared


def _answers(path: Path, shared: Collection[str]) -> Joined:
    """The answers of a file, by what their questions are called.

    Raises:
        DataError: not JSON Lines, a record without id, or without prompt where the id says too little.
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
    """The answers in the order of the questions.

    Args:
        path: the file of the questions, for messages.

    Raises:
        DataError: a question without answer, one with several, or an answer without question; names ids and files.
    """
    asked = set(questions)
    found: dict[str, Joined] = {}
    for chunk in chunks:
        if chunk.duplicates:
            raise DataError(f"{chunk.path}: answers {some(chunk.duplicates)} more than once. {_AGAIN}")
        if unknown := [identity for identity in chunk.lines if identity not in asked]:
            raise DataError(
                f"{chunk.path}: answers to no question of {path}: {len(unknown)} ({some(unknown)}). "
                "Give the question file that they were made from, or remove the file."
            )
        if twice := [identity for identity in chunk.lines if identity in found]:
            raise DataError(
                f"{chunk.path}: questions answered in {found[twice[0]].path} too: {len(twice)} ({some(twice)}). "
                f"{_AGAIN}"
            )
        found.update(dict.fromkeys(chunk.lines, chunk))
    if missing := [identity for identity in questions if identity not in found]:
        raise DataError(
            f"{path}: questions without an answer: {len(missing)} of {len(questions)} "
            f"({some(missing)}). Let all processes finish; started again, they answer what is left."
        )
    return [found[identity].lines[identity].record for identity in questions]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
