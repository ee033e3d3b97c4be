"""Converts ScienceQA into conversations for training and evaluation.

convert_to_llava writes DIR/llava_SPLIT_FORMAT.json, a JSON list for training and model_vqa_science, and in the default
format also a copy as DIR/llava_SPLIT.json. convert_to_jsonl writes DIR/scienceqa_SPLIT_FORMAT.jsonl with `instruction`
and `output`. Image names have the form PROBLEM/FILE, relative to the image folder of the split.

Several splits may be given as separate words, as train,val,test or as {train,val,test}.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
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
    parser.add_argument(
        "task", choices=(TO_LLAVA, TO_JSONL), help="Output format: conversations (JSON) or instructions (JSON Lines)."
    )
    parser.add_argument(
        "--base-dir",
        "--base_dir",
        required=True,
        metavar="DIR",
        help=f"Folder of ScienceQA with {PROBLEMS} and {SPLITS}; also the output folder.",
    )
    parser.add_argument(
        "--split",
        required=True,
        nargs="+",
        action="extend",
        metavar="SPLIT",
        help=f"One or more splits in {SPLITS}: train, val, test, trainval, minitrain, minival, minitest.",
    )
    parser.add_argument(
        "--prompt-format",
        "--prompt_format",
        default=DEFAULT_FORMAT,
        metavar="FORMAT",
        help="Parts of the question and of the answer, such as QCM-ALE or CQM-A. Q: question, C: context, M: choices, "
        f"L: lecture, E: solution, A: answer, P: in sections (default: {DEFAULT_FORMAT}).",
    )


def main(args: argparse.Namespace) -> int:
    convert(args.task, args.base_dir, split_names(args.split), args.prompt_format)
    return 0


def convert(task: str, base_dir: str, names: Sequence[str], prompt_format: str) -> None:
    """Writes the files of the splits.

    Args:
        task: TO_LLAVA or TO_JSONL.
        base_dir: folder of ScienceQA, and of the new files.
        names: names of the splits.
        prompt_format: parts of the question and of the answer, such as QCM-LEPA.

    Raises:
        DataError: the data set cannot be read, or has no such split.
        InvalidRequest: the format is unknown.
    """
    style = parse_format(prompt_format)
    data = open_science_qa(base_dir)
    # All splits are read before the first is written, so a wrong name leaves nothing half done.
    splits = [(name, data.split(name)) for name in names]
    for name, problems in splits:
        rendered = [(problem, *render(problem, style)) for problem in problems]
        if task == TO_JSONL:
            files = [data.folder / f"scienceqa_{name}_{prompt_format}.jsonl"]
            write_jsonl(files[0], [instruction(*parts) for parts in rendered])
        else:
            files = llava_files(data.folder, name, prompt_format)
            write_json(files[0], [conversation(*parts) for parts in rendered])
            for short_name in files[1:]:
                with whole_file(short_name) as temporary:
                    shutil.copyfile(files[0], temporary)
        print(f"Number of samples: {len(problems)}")
        print("  " + ", also ".join(map(str, files)))


def split_names(words: list[str]) -> list[str]:
    """Returns the splits that command-line words name (`train val`, `train,val` or `{train,val}`), each once.

    Raises:
        InvalidRequest: the words name no split.
    """
    names = [name.strip() for word in words for name in word.strip("{}").split(",")]
    if not any(names):
        raise InvalidRequest(f"--split {' '.join(words)}: names no split. Pass one or more, such as train or test.")
    return list(dict.fromkeys(name for name in names if name))


def llava_files(folder: Path, split: str, prompt_format: str) -> list[Path]:
    """Returns the files of a split: one with the format in its name, and for the default format one without.

    The short name always has the default format, so a second conversion does not change what a later command asks.
    """
    files = [folder / f"llava_{split}_{prompt_format}.json"]
    return [*files, folder / f"llava_{split}.json"] if prompt_format == DEFAULT_FORMAT else files


def conversation(problem: Problem, asked: str, answered: str) -> dict[str, Any]:
    """Returns a problem as a training record."""
    turns = [{"from": "human", "value": _with_image(problem, asked)}, {"from": "gpt", "value": answered}]
    return {**_head(problem), "conversations": turns}


def instruction(problem: Problem, asked: str, answered: str) -> dict[str, Any]:
    """Returns a problem as an instruction and its output."""
    return {**_head(problem), "instruction": _with_image(problem, asked), "output": answered}


def _head(problem: Problem) -> dict[str, str]:
    return {"id": problem.id} if problem.image_path is None else {"id": problem.id, "image": problem.image_path}


def _with_image(problem: Problem, asked: str) -> str:
    return asked if problem.image is None else f"{asked}\n{DEFAULT_IMAGE_TOKEN}"


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
