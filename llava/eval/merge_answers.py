"""Puts the answers of several processes into one file, in the order of the questions.

Nothing is written unless every question is answered exactly once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval.records import Joined, locate, read_answers, read_questions, some
from llava.json_files import read_text, write_jsonl

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
    questions = read_questions(locate(args.question_file))
    if questions.duplicates:
        raise DataError(f"{questions.path}: asks {some(questions.duplicates)} more than once. Remove the repetitions.")
    chunks = [read_answers(path) for path in map(Path, args.chunks) if read_text(path).strip()]
    answers = merged(questions, chunks)
    write_jsonl(args.answers_file, answers)
    print(f"{args.answers_file}: {len(answers)} answers from {len(args.chunks)} files")
    return 0


def merged(questions: Joined, chunks: list[Joined]) -> list[dict[str, Any]]:
    """The answers in the order of the questions.

    Raises:
        DataError: a question without answer, one with several, or an answer without question; names ids and files.
    """
    found: dict[str, Joined] = {}
    for chunk in chunks:
        if chunk.duplicates:
            raise DataError(f"{chunk.path}: answers {some(chunk.duplicates)} more than once. {_AGAIN}")
        if unknown := [identity for identity in chunk.lines if identity not in questions.lines]:
            raise DataError(
                f"{chunk.path}: answers to no question of {questions.path}: {len(unknown)} ({some(unknown)}). "
                "Give the question file that they were made from, or remove the file."
            )
        if twice := [identity for identity in chunk.lines if identity in found]:
            raise DataError(
                f"{chunk.path}: questions answered in {found[twice[0]].path} too: {len(twice)} ({some(twice)}). "
                f"{_AGAIN}"
            )
        found.update(dict.fromkeys(chunk.lines, chunk))
    if missing := [identity for identity in questions.lines if identity not in found]:
        raise DataError(
            f"{questions.path}: questions without an answer: {len(missing)} of {len(questions.lines)} "
            f"({some(missing)}). Let all processes finish; started again, they answer what is left."
        )
    return [found[identity].lines[identity].record for identity in questions.lines]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
