"""Writes the JSON file of questions, answers and reviews that the original's web page shows.

    cd llava/eval && python generate_webpage_data_from_table.py

Without flags it reads the original's tables and writes webpage/data.json. `llava eval report` shows any answers and
reviews on a page that needs no server.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from llava.command_line import DONE, run
from llava.errors import DataError, InvalidRequest
from llava.eval.data.records import Joined, locate, read_answers, some
from llava.files.json_files import write_json

QUESTIONS = "table/question.jsonl"
OURS, THEIRS = "ours", "vicuna"
OURS_FILE = "table/results/llama-13b-hf-alpaca.jsonl"
THEIRS_FILE = "table/answer/answer_vicuna-13b.jsonl"
REVIEW_FILE = "table/review/review_vicuna-13b_llama-13b-hf-alpaca.jsonl"
ORIGINALS_COUNT = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--questions", default=QUESTIONS, metavar="FILE", help=f"Questions (JSON Lines; default: {QUESTIONS})."
    )
    parser.add_argument(
        "--answers",
        nargs="+",
        default=[f"{THEIRS}={THEIRS_FILE}", f"{OURS}={OURS_FILE}"],
        metavar="NAME=FILE",
        help="Answers by model (JSON Lines). The last model is compared with the others (default: the original's).",
    )
    parser.add_argument(
        "--reviews",
        nargs="*",
        default=[f"{THEIRS}={REVIEW_FILE}"],
        metavar="NAME=FILE",
        help="Reviews that compare a model with the last one (JSON Lines; default: the original's).",
    )
    parser.add_argument(
        "--output", default="webpage/data.json", metavar="FILE", help="Output file (JSON; default: webpage/data.json)."
    )


def main(args: argparse.Namespace) -> int:
    questions = read_answers(locate(args.questions))
    answers = _named_files(args.answers, "--answers")
    reviews = _named_files(args.reviews, "--reviews")
    if unknown := [name for name in reviews if name not in answers]:
        raise InvalidRequest(f"--reviews: --answers has no {', '.join(unknown)}.")
    for file in (*answers.values(), *reviews.values()):
        if missing := [identity for identity in questions.lines if identity not in file.lines]:
            raise DataError(f"{file.path}: lacks {len(missing)} of the questions ({some(missing)}).")
    records = [_record(questions, identity, answers, reviews) for identity in questions.lines]
    write_json(args.output, {"questions": _in_order(records), "models": list(answers)})
    print(f"{args.output}: {len(records)} questions, {len(answers)} models")
    return DONE


def _named_files(pairs: list[str], flag: str) -> dict[str, Joined]:
    files = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise InvalidRequest(f"{flag} {pair}: expected NAME=FILE.")
        files[name] = read_answers(locate(Path(path), remedy="Name the files with --questions, --answers, --reviews."))
    return files


def _record(questions: Joined, identity: str, answers: dict[str, Joined], reviews: dict[str, Joined]) -> dict[str, Any]:
    return {
        "id": questions.lines[identity].record["question_id"],
        "category": questions.text(identity, "category"),
        "question": questions.text(identity, "text"),
        "answers": {name: file.text(identity, "text") for name, file in answers.items()},
        "evaluations": {name: _evaluation(file, identity) for name, file in reviews.items()},
        "scores": {name: _scores(file, identity) for name, file in reviews.items()},
    }


def _evaluation(file: Joined, identity: str) -> str:
    """Returns what the judge wrote, without the line of scores, as Markdown with the assistants' names in bold."""
    from llava.eval.reviews.scores import starts_with_scores

    text = file.text(identity, "content" if "content" in file.lines[identity].record else "text").strip()
    if starts_with_scores(text):
        text = text.partition("\n")[2]
    for name in ("Assistant 1", "Assistant 2"):
        text = text.replace(name, f"**{name}**")
    return text


def _scores(file: Joined, identity: str) -> Any:
    record = file.lines[identity].record
    name = "tuple" if "tuple" in record else "score"
    if name not in record:
        raise DataError(f"{file.place(identity)}: has neither 'tuple' nor 'score'.")
    return record[name]


def _in_order(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reorders and renumbers the original's 80 questions as the original does. Other questions stay as they are."""
    if sorted(str(record["id"]) for record in records) != sorted(map(str, range(1, ORIGINALS_COUNT + 1))):
        return records
    places = sorted(records, key=lambda record: int(record["id"]))
    places = [*places[20:], *places[:20]]
    places[:60] = [*places[50:60], *places[:50]]
    places[:7] = [places[6], *places[:6]]
    return [record | {"id": number} for number, record in enumerate(places, start=1)]


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
