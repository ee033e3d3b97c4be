"""Answers MMBench (English and Chinese) with a LLaVA, from the benchmark's own TSV file with the images inside.

With --all-rounds each question is asked once for each option, the options moved on by one each time (circular
evaluation); `option_char` of a record says which option then stood under A, B, ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run
from llava.errors import DataError
from llava.eval.answering import command
from llava.eval.data.questions import LETTER_ONLY, Question
from llava.eval.data.records import locate
from llava.eval.scoring.mmbench_table import LETTERS, is_empty, options_of, read_table

_LETTER_ONLY = {"en": LETTER_ONLY, "cn": "请直接回答选项字母。"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(
        parser,
        questions="TSV with index, question, hint, A to D and image (base64)",
        with_images=False,
    )
    parser.add_argument("--all-rounds", action="store_true", help="ask once for each option, the options moved on")
    parser.add_argument("--single-pred-prompt", action="store_true", help="ask for the letter and nothing else")
    parser.add_argument("--lang", choices=tuple(_LETTER_ONLY), default="en", help="of that request (default: en)")


def main(args: argparse.Namespace) -> int:
    manner = command.manner_of(args)
    ending = f"\n{_LETTER_ONLY[args.lang]}" if args.single_pred_prompt else ""
    questions = read_mmbench(locate(args.question_file), all_rounds=args.all_rounds, ending=ending)
    told = {"single_pred_prompt": args.lang} if args.single_pred_prompt else {}
    return command.answer_all(args, questions, manner=manner, told=told)


def read_mmbench(path: Path, *, all_rounds: bool, ending: str) -> list[Question]:
    """Reads the questions of a TSV file.

    Args:
        ending: added to what is asked, not to the prompt that records tell (as in later releases).

    Raises:
        DataError: not such a file, or nothing in it; names file and row.
    """
    table = read_table(path)
    absent = [name for name in ("question", "A", "image") if name not in table.columns]
    if absent:
        raise DataError(f"{path}: has no column {', '.join(absent)}. Is it a TSV file of MMBench?")
    images = {row["index"]: row["image"] for row in table.rows}
    questions = []
    for number, row in enumerate(table.rows, start=1):
        place = f"{path}: row {number} (question {row['index']})"
        options = list(options_of(row).values())
        if not options:
            raise DataError(f"{place} has no options.")
        image = _image(row["image"], images, place)
        for turn in range(len(options) if all_rounds else 1):
            moved = [*options[turn:], *options[:turn]]
            letters = [*LETTERS[turn : len(options)], *LETTERS[:turn]]
            text = "\n".join(
                [
                    *([] if is_empty(row.get("hint")) else [row["hint"]]),
                    row["question"],
                    *(f"{letter}. {option}" for letter, option in zip(LETTERS, moved, strict=False)),
                ]
            )
            record = {
                "question_id": _number(row["index"]),
                "round_id": turn,
                "prompt": text,
                "options": moved,
                "option_char": letters,
            }
            questions.append(Question(place, record, text + ending, (image,)))
    return questions


def _image(value: str, images: dict[str, str], place: str) -> str:
    """As a data URI; where the field holds a short number, it names the row that has the image."""
    data = images.get(value.strip(), "") if len(value) < 64 else value
    if len(data) < 64:
        raise DataError(f"{place}: 'image' is neither an image in base64 nor the index of a row that has one.")
    return f"data:image/jpeg;base64,{data.strip()}"


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
