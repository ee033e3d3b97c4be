"""Stands in the place of `llava.eval.model_vqa_science`, with its flags and its files, and answers without a model.

STAND_IN_FAILS names a chunk that ends with an error after its first answer; STAND_IN_WAITS=1 makes all wait after it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.support.science_qa import answer, right


def main() -> int:
    parser = argparse.ArgumentParser()
    for flag in ("--model-name", "--question-file", "--image-folder", "--answers-file", "--conv-mode"):
        parser.add_argument(flag)
    for flag in ("--num-chunks", "--chunk-idx"):
        parser.add_argument(flag, type=int)
    for flag in ("--answer-prompter", "--single-pred-prompt"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()

    questions = json.loads(Path(args.question_file).read_text())
    size = -(-len(questions) // args.num_chunks)
    file = Path(args.answers_file)
    done = {json.loads(line)["question_id"] for line in file.read_text().splitlines()} if file.exists() else set()
    settings = {
        "gpu": os.environ["CUDA_VISIBLE_DEVICES"],
        "conv_mode": args.conv_mode,
        "answer_prompter": args.answer_prompter,
        "single_pred_prompt": args.single_pred_prompt,
        "model": args.model_name,
    }
    with file.open("a") as answers:
        for question in questions[size * args.chunk_idx : size * (args.chunk_idx + 1)]:
            if question["id"] in done:
                continue
            if "image" in question:
                assert (Path(args.image_folder) / question["image"]).is_file()
            record = answer(question["id"], right(int(question["id"])), metadata=settings)
            answers.write(json.dumps(record) + "\n")
            answers.flush()
            if os.environ.get("STAND_IN_FAILS") == str(args.chunk_idx):
                print("error: out of memory", file=sys.stderr)
                return 3
            if os.environ.get("STAND_IN_WAITS"):
                print(f"waiting, process {os.getpid()}", flush=True)
                time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
