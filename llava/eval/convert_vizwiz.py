"""Makes the file that the VizWiz server takes: the image of every question, the answer in the server's form.

Nothing is written unless every question is answered.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.data.records import locate, read_answers
from llava.eval.scoring.answers import answers_to, complete, text_of, warn
from llava.eval.scoring.short_answers import server_form
from llava.files.json_files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotation-file", required=True, metavar="FILE", help="questions, JSON Lines with question_id and image"
    )
    parser.add_argument("--result-file", required=True, metavar="FILE", help="answers, JSON Lines")
    parser.add_argument(
        "--result-upload-file", required=True, metavar="FILE", help="the file to write, JSON; its folder is made"
    )


def main(args: argparse.Namespace) -> int:
    questions = read_answers(locate(args.annotation_file))
    found = read_answers(locate(args.result_file))
    answers = complete(answers_to(list(questions.lines), found, of=questions.path), use="A submission")
    print(f"total results: {len(found.lines)}, total split: {len(questions.lines)}")
    warn(answers)
    upload = [
        {
            "image": text_of(line.record, "image", questions.place(identity)),
            "answer": server_form(answers.texts[identity]),
        }
        for identity, line in questions.lines.items()
    ]
    write_json(args.result_upload_file, upload, indent=None)
    print(f"{args.result_upload_file}: {len(upload)} answers")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
