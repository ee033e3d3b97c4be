"""The flags of the commands that ask a model: which model, how it answers, and how a run over a question file goes."""

from __future__ import annotations

import argparse

from llava.model.loading import arguments


def add_model_arguments(parser: argparse.ArgumentParser, *, split: bool = False) -> None:
    """Adds the flags that say which model to load, and how.

    Args:
        split: whether to offer `--num-gpus`, with one GPU as the default.
    """
    arguments.add_model_path(parser, "--model-name", "--model-path")
    arguments.add_arguments(parser, projector=True, split=split, split_default=1 if split else None)


def add_answer_arguments(parser: argparse.ArgumentParser, *, max_new_tokens: int) -> None:
    """Adds the flags that say how the model answers.

    Args:
        parser: the parser of the command.
        max_new_tokens: the default of `--max-new-tokens`.
    """
    parser.add_argument("--conv-mode", metavar="TEMPLATE", help="Prompt template (default: the checkpoint's own).")
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.2,
        metavar="T",
        help="Sampling temperature from 0 (greedy) to 2 (default: 0.2).",
    )
    parser.add_argument(
        "--top-p",
        "--top_p",
        type=float,
        default=None,
        metavar="P",
        help="Nucleus sampling: probability to keep (default: off).",
    )
    parser.add_argument(
        "--num-beams",
        "--num_beams",
        type=int,
        default=1,
        metavar="N",
        help="Number of beams; 1 is no beam search (default: 1).",
    )
    parser.add_argument(
        "--max-new-tokens",
        "--max_new_tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help=f"Maximum number of tokens in an answer (default: {max_new_tokens}).",
    )


def add_arguments(
    parser: argparse.ArgumentParser,
    *,
    questions: str,
    question_file: str = "tables/question.jsonl",
    with_images: bool = True,
    max_new_tokens: int = 1024,
) -> None:
    """Adds the flags of a command that answers the questions of a file.

    Args:
        parser: the parser of the command.
        questions: the form of the question file, for the help text of `--question-file`.
        question_file: the default of `--question-file`, the original's.
        with_images: whether the questions name image files.
        max_new_tokens: the default of `--max-new-tokens`.
    """
    add_model_arguments(parser, split=True)
    parser.add_argument(
        "--server",
        metavar="URL",
        help="Ask a running server (controller, worker, or any OpenAI-compatible server) instead of loading a model. "
        "--model-name then selects one of its models. The API key is read from LLAVA_API_KEY.",
    )
    parser.add_argument(
        "--question-file",
        default=question_file,
        metavar="FILE",
        help=f"Question file ({questions}). It is looked up in the current folder, the repository and llava/eval "
        f"(default: {question_file}).",
    )
    # What a command does not offer has its default in the namespace all the same.
    parser.set_defaults(image_folder=None)
    if with_images:
        parser.add_argument(
            "--image-folder", default="", metavar="DIR", help="Folder of the images (default: the current folder)."
        )
    parser.add_argument(
        "--answers-file",
        default="answer.jsonl",
        metavar="FILE",
        help="Output file (JSON Lines). An existing file is resumed (default: answer.jsonl).",
    )
    parser.add_argument("--overwrite", action="store_true", help="Delete existing answers instead of resuming.")
    parser.add_argument(
        "--skip-unanswerable",
        action="store_true",
        help="Skip and list questions that are too long or whose image is missing or damaged. By default a missing "
        "image is an error before the first question, and the others end the run with exit code 1.",
    )
    add_answer_arguments(parser, max_new_tokens=max_new_tokens)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="Random seed; ignored at temperature 0 (default: 0)."
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="Number of questions answered at once (default: 32)."
    )
    parser.add_argument(
        "--num-chunks",
        type=int,
        default=1,
        metavar="N",
        help="Number of parts to divide the questions into, one per process (default: 1).",
    )
    parser.add_argument(
        "--chunk-idx", type=int, default=0, metavar="I", help="Part to answer; the first is 0 (default: 0)."
    )
