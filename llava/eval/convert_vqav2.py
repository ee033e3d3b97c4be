"""Converts answers to VQAv2 into the file that its server accepts, which has every question of the test split.

Reads DIR/answers/SPLIT/CKPT/merge.jsonl and DIR/llava_vqav2_mscoco_test2015.jsonl; writes
DIR/answers_upload/SPLIT/CKPT.json. Questions that were not asked, such as those outside test-dev, get an empty answer.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.eval.data.records import locate, read_answers
from llava.eval.scoring.answers import answers_to, warn
from llava.eval.scoring.short_answers import server_form
from llava.files.json_files import write_json

DEFAULT_DIR = "./playground/data/eval/vqav2"
TEST_QUESTIONS = "llava_vqav2_mscoco_test2015.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", default=DEFAULT_DIR, metavar="DIR", help=f"Folder of the benchmark (default: {DEFAULT_DIR})."
    )
    parser.add_argument(
        "--ckpt", required=True, metavar="NAME", help="Name of the model, as in the path of the answers."
    )
    parser.add_argument(
        "--split", required=True, metavar="NAME", help="Name of the split, such as llava_vqav2_mscoco_test-dev2015."
    )


def main(args: argparse.Namespace) -> int:
    convert(args.dir, args.split, args.ckpt)
    return 0


def convert(folder_name: str, split: str, checkpoint: str) -> None:
    """Writes the submission of a checkpoint.

    Raises:
        DataError: a file is missing or has another form, or no answer belongs to a question.
    """
    folder = locate(folder_name, remedy="Pass the folder of the benchmark with --dir.")
    questions = read_answers(folder / TEST_QUESTIONS)
    found = read_answers(folder / "answers" / split / checkpoint / "merge.jsonl")
    answers = answers_to(list(questions.lines), found, source=questions.path)
    print(f"total results: {len(found.lines)}, total split: {len(questions.lines)}")
    warn(answers, missing="an empty answer")
    upload = [
        {"question_id": line.record["question_id"], "answer": server_form(answers.texts.get(identity, ""))}
        for identity, line in questions.lines.items()
    ]
    target = folder / "answers_upload" / split / f"{checkpoint}.json"
    write_json(target, upload, indent=None)
    print(f"{target}: {len(upload)} answers")


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
