"""Converts answers to VizWiz into the file that its server accepts: image and normalised answer of every question.

The file is written only if every question is answered.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.data.records import locate, read_answers, text_field
from llava.eval.scoring.answers import answers_to, require_all, warn
from llava.eval.scoring.short_answers import server_form
from llava.files.json_files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotation-file", required=True, metavar="FILE", help="Questions (JSON Lines with question_id and image)."
    )
    parser.add_argument("--result-file", required=True, metavar="FILE", help="Answers of the model (JSON Lines).")
    parser.add_argument(
        "--result-upload-file", required=True, metavar="FILE", help="Output file for the submission (JSON)."
    )


def main(args: argparse.Namespace) -> int:
    convert(args.annotation_file, args.result_file, args.result_upload_file)
    return 0


def convert(question_file: str, result_file: str, target: str) -> None:
    """Writes the submission.

    Raises:
        DataError: a file has another form, or a question has no answer.
    """
    questions = read_answers(locate(question_file))
    found = read_answers(locate(result_file))
    answers = answers_to(list(questions.lines), found, source=questions.path)
    require_all(answers)
    print(f"total results: {len(found.lines)}, total split: {len(questions.lines)}")
    warn(answers)
    upload = [
        {
            "image": text_field(line.record, "image", questions.place(identity), allow_number=True),
            "answer": server_form(answers.texts[identity]),
        }
        for identity, line in questions.lines.items()
    ]
    write_json(target, upload, indent=None)
    print(f"{target}: {len(upload)} answers")


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
