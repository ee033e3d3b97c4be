"""Answers MMBench (English and Chinese) with a LLaVA, from the benchmark's own TSV file with the pictures inside.

With --all-rounds each question is asked once for each option, the options moved on by one each time (circular
evaluation); `option_char` of a record says which option then stood under A, B, ...
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.errors import DataError
from llava.eval import answering
from llava.eval.questions import LETTER_ONLY, Question
from llava.eval.records import locate, normal_id
from llava.json_files import read_text

OPTIONS = ("A", "B", "C", "D")
_LETTER_ONLY = {"en": LETTER_ONLY, "cn": "请直接回答选项字母。"}
_NOTHING = ("", "nan", "none")
_MAX_FIELD_BYTES = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    answering.add_arguments(
        parser,
        questions="TSV with index, question, hint, A to D and image (base64)",
        with_pictures=False,
    )
    parser.add_argument("--all-rounds", action="store_true", help="ask once for each option, the options moved on")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the letter and nothing else")
    parser.add_argument("--lang", choices=tuple(_LETTER_ONLY), default="en", help="of that request (default: en)")


def main(args: argparse.Namespace) -> int:
    manner = answering.manner_of(args)
    ending = f"\n{_LETTER_ONLY[args.lang]}" if args.single_pred_prompt else ""
    questions = read_mmbench(locate(args.question_file), all_rounds=args.all_rounds, ending=ending)
    told = {"single_pred_prompt": args.lang} if args.single_pred_prompt else {}
    return answering.answer_all(args, questions, manner=manner, told=told)


def read_mmbench(path: Path, *, all_rounds: bool, ending: str) -> list[Question]:
    """Reads the questions of a TSV file.

    Args:
        ending: added to what is asked, not to the prompt that records tell (as in later releases).

    Raises:
        DataError: not such a file, or nothing in it; names file and row.
    """
    rows = list(_rows(path))
    pictures = {normal_id(row["index"], f"{path}: 'index'"): row["image"] for row in rows}
    questions = []
    for number, row in enumerate(rows, start=1):
        place = f"{path}: row {number} (question {row['index'].strip()})"
        options = _options(row)
        if not options:
            raise DataError(f"{place} has no options.")
        picture = _picture(row["image"], pictures, place)
        for turn in range(len(options) if all_rounds else 1):
            moved = [*options[turn:], *options[:turn]]
            letters = [*OPTIONS[turn : len(options)], *OPTIONS[:turn]]
            text = "\n".join(
                [
                    *([row["hint"]] if _is_there(row.get("hint")) else []),
                    row["question"],
                    *(f"{letter}. {option}" for letter, option in zip(OPTIONS, moved, strict=False)),
                ]
            )
            record = {
                "question_id": _number(row["index"]),
                "round_id": turn,
                "prompt": text,
                "options": moved,
                "option_char": letters,
            }
            questions.append(Question(place, record, text + ending, (picture,)))
    return questions


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    # A field holds a whole picture.
    csv.field_size_limit(_MAX_FIELD_BYTES)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="\t")
    absent = {"index", "question", "A", "image"} - set(reader.fieldnames or ())
    if absent:
        raise DataError(f"{path}: has no column {', '.join(sorted(absent))}. Is it a TSV file of MMBench?")
    number = 0
    for number, row in enumerate(reader, start=1):
        if any(row[name] is None for name in ("index", "question", "A", "image")):
            raise DataError(f"{path}: row {number} has fewer fields than the first line has names. Was it cut off?")
        yield row
    if number == 0:
        raise DataError(f"{path}: holds no questions.")


def _options(row: dict[str, Any]) -> list[str]:
    """Up to the first that is not there."""
    options = []
    for letter in OPTIONS:
        if not _is_there(row.get(letter)):
            break
        options.append(row[letter])
    return options


def _picture(value: str, pictures: dict[str, str], place: str) -> str:
    """As a data URI; where the field holds a short number, it names the row that has the picture."""
    data = pictures.get(value.strip(), "") if len(value) < 64 else value
    if len(data) < 64:
        raise DataError(f"{place}: 'image' is neither a picture in base64 nor the index of a row that has one.")
    return f"data:image/jpeg;base64,{data.strip()}"


def _is_there(value: str | None) -> bool:
    return value is not None and value.strip().lower() not in _NOTHING


def _number(text: str) -> int | str:
    return int(text) if text.strip().isdecimal() else text.strip()


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
