"""Answers MMBench (English and Chinese) with a LLaVA model, from the benchmark's TSV file, which contains the images.

With --all-rounds each question is asked once per option, and the options are rotated by one each time (circular
evaluation). The field `option_char` of a record lists the options that were shown as A, B, and so on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run
from llava.errors import DataError
from llava.eval.answering import arguments
from llava.eval.answering.command import answer_all
from llava.eval.answering.settings import RunSettings
from llava.eval.data.questions import LETTER_ONLY, Question
from llava.eval.data.records import locate
from llava.eval.scoring.mmbench_table import LETTERS, is_empty, options_of, read_table

_LETTER_ONLY = {"en": LETTER_ONLY, "cn": "请直接回答选项字母。"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_arguments(
        parser,
        questions="TSV with index, question, hint, A to D and image (base64)",
        with_images=False,
    )
    parser.add_argument(
        "--all-rounds", action="store_true", help="Ask each question once per option, with rotated options."
    )
    parser.add_argument("--single-pred-prompt", action="store_true", help="Ask only for the letter of the option.")
    parser.add_argument(
        "--lang",
        choices=tuple(_LETTER_ONLY),
        default="en",
        help="Language in which the letter is asked for (default: en).",
    )


def main(args: argparse.Namespace) -> int:
    settings = RunSettings.from_args(args)
    ending = f"\n{_LETTER_ONLY[args.lang]}" if args.single_pred_prompt else ""
    questions = read_mmbench(locate(settings.question_file), all_rounds=args.all_rounds, ending=ending)
    extra_metadata = {"single_pred_prompt": args.lang} if args.single_pred_prompt else {}
    answer_all(settings, questions, extra_metadata=extra_metadata)
    return 0


def read_mmbench(path: Path, *, all_rounds: bool, ending: str) -> list[Question]:
    """Reads the questions of a TSV file.

    Args:
        path: the file.
        all_rounds: ask each question once per option, with rotated options.
        ending: appended to the question, but not to the prompt in the records (as in later releases).

    Raises:
        DataError: the file has another form or no questions; names file and row.
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
            rotated = [*options[turn:], *options[:turn]]
            prompt = _prompt(row, rotated)
            record = {
                "question_id": _number(row["index"]),
                "round_id": turn,
                "prompt": prompt,
                "options": rotated,
                "option_char": [*LETTERS[turn : len(options)], *LETTERS[:turn]],
            }
            questions.append(Question(place, record, prompt + ending, (image,)))
    return questions


def _prompt(row: dict[str, str], options: list[str]) -> str:
    lines = [row["question"], *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))]
    if not is_empty(row.get("hint")):
        lines.insert(0, row["hint"])
    return "\n".join(lines)


def _image(value: str, images: dict[str, str], place: str) -> str:
    """Returns an image as a data URI; a short value is the index of the row that has the image."""
    data = images.get(value.strip(), "") if len(value) < 64 else value
    if len(data) < 64:
        raise DataError(f"{place}: 'image' is neither an image in base64 nor the index of a row with an image.")
    return f"data:image/jpeg;base64,{data.strip()}"


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
