"""Turns ScienceQA into conversations, for training and for asking.

convert_to_llava writes DIR/llava_SPLIT_FORMAT.json, a JSON list as the training and model_vqa_science read it, and, in
the default format, the same as DIR/llava_SPLIT.json. convert_to_jsonl writes DIR/scienceqa_SPLIT_FORMAT.jsonl with
`instruction` and `output`. Images are named as PROBLEM/FILE, relative to the folder of the split's images.

Several splits are given one after another or as {train,val,test}, which not every shell expands.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from llava.command_line import run
from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import InvalidRequest
from llava.eval.science_qa.dataset import PROBLEMS, SPLITS, Problem, open_science_qa
from llava.eval.science_qa.prompts import DEFAULT_FORMAT, parse_format, render
from llava.files.json_files import whole_file, write_json, write_jsonl

TO_LLAVA, TO_JSONL = "convert_to_llava", "convert_to_jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=(TO_LLAVA, TO_JSONL), help="what to write")
    parser.add_argument(
        "--base-dir",
        "--base_dir",
        required=True,
        metavar="DIR",
        help=f"folder of ScienceQA with {PROBLEMS} and {SPLITS}; the new files go there too",
    )
    parser.add_argument(
        "--split",
        required=True,
        nargs="+",
        action="extend",
        metavar="SPLIT",
        help="train, val, test, trainval, minitrain, minival, minitest: whatever pid_splits.json names",
    )
    parser.add_argument(
        "--prompt-format",
        "--prompt_format",
        default=DEFAULT_FORMAT,
        metavar="FORMAT",
        help="what is asked and what is answered, each letter a part: Q question, C context, M choices, L lecture, "
        f"E solution, A answer, P in sections; QCM-ALE or CQM-A for example (default: {DEFAULT_FORMAT})",
    )


def main(args: argparse.Namespace) -> int:
    style = parse_format(args.prompt_format)
    names = split_names(args.split)
    data = open_science_qa(args.base_dir)
    # All are read before the first is written, so that a wrong name leaves nothing half done.
    splits = [(name, data.split(name)) for name in names]
    for name, problems in splits:
        rendered = [(problem, *render(problem, style)) for problem in problems]
        if args.task == TO_JSONL:
            files = [data.folder / f"scienceqa_{name}_{args.prompt_format}.jsonl"]
            write_jsonl(files[0], [instruction(*parts) for parts in rendered])
        else:
            files = llava_files(data.folder, name, args.prompt_format)
            write_json(files[0], [conversation(*parts) for parts in rendered])
            for short_name in files[1:]:
                with whole_file(short_name) as temporary:
                    shutil.copyfile(files[0], temporary)
        print(f"Number of samples: {len(problems)}")
        print("  " + ", also ".join(map(str, files)))
    return 0


def split_names(words: list[str]) -> list[str]:
    """The splits that the words of the command line name: `train val`, `train,val` or `{train,val}`, each once.

    Raises:
        InvalidRequest: they name none.
    """
    names = [name.strip() for word in words for name in word.strip("{}").split(",")]
    if not any(names):
        raise InvalidRequest(f"--split {' '.join(words)}: names no split; give one or more, such as train or test.")
    return list(dict.fromkeys(name for name in names if name))


def llava_files(folder: Path, split: str, prompt_format: str) -> list[Path]:
    """The files of a split: one named by its format, and for the default format one that is not, for the next command.

    The short name always holds the same format: a second conversion does not change what a later command asks.
    """
    files = [folder / f"llava_{split}_{prompt_format}.json"]
    return [*files, folder / f"llava_{split}.json"] if prompt_format == DEFAULT_FORMAT else files


def conversation(problem: Problem, asked: str, answered: str) -> dict[str, Any]:
    """A problem as a training record."""
    turns = [{"from": "human", "value": _with_image(problem, asked)}, {"from": "gpt", "value": answered}]
    return {**_head(problem), "conversations": turns}


def instruction(problem: Problem, asked: str, answered: str) -> dict[str, Any]:
    """A problem as an instruction and its output."""
    return {**_head(problem), "instruction": _with_image(problem, asked), "output": answered}


def _head(problem: Problem) -> dict[str, str]:
    return {"id": problem.id} if problem.image_path is None else {"id": problem.id, "image": problem.image_path}


def _with_image(problem: Problem, asked: str) -> str:
    return asked if problem.image is None else f"{asked}\n{DEFAULT_IMAGE_TOKEN}"


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
