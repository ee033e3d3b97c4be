"""Makes the file that the VQAv2 server takes: every question of the test split, its answer in the server's form.

Reads DIR/answers/SPLIT/CKPT/merge.jsonl and DIR/llava_vqav2_mscoco_test2015.jsonl, writes
DIR/answers_upload/SPLIT/CKPT.json. Questions that were not asked, such as those outside test-dev, get an empty answer.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llava.command_line import run
from llava.eval.data.records import locate, read_answers
from llava.eval.scoring.answers import answers_to, warn
from llava.eval.scoring.short_answers import server_form
from llava.files.json_files import write_json

DEFAULT_DIR = "./playground/data/eval/vqav2"
TEST_QUESTIONS = "llava_vqav2_mscoco_test2015.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default=DEFAULT_DIR, metavar="DIR", help=f"folder of the benchmark ({DEFAULT_DIR})")
    parser.add_argument("--ckpt", required=True, metavar="NAME", help="name of the model, as in the answers' path")
    parser.add_argument("--split", required=True, metavar="NAME", help="such as llava_vqav2_mscoco_test-dev2015")


def main(args: argparse.Namespace) -> int:
    folder = locate(args.dir, remedy="Give the folder of the benchmark with --dir.")
    questions = read_answers(folder / TEST_QUESTIONS)
    found = read_answers(folder / "answers" / args.split / args.ckpt / "merge.jsonl")
    answers = answers_to(list(questions.lines), found, of=questions.path)
    print(f"total results: {len(found.lines)}, total split: {len(questions.lines)}")
    warn(answers, missing="an empty answer")
    upload = [
        {"question_id": line.record["question_id"], "answer": server_form(answers.texts.get(identity, ""))}
        for identity, line in questions.lines.items()
    ]
    target = Path(folder) / "answers_upload" / args.split / f"{args.ckpt}.json"
    write_json(target, upload, indent=None)
    print(f"{target}: {len(upload)} answers")
    return 0


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
