"""The flags of every command that asks a model by itself: which one, how it is loaded, how it answers."""

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
    """How it answers.

    Args:
        max_new_tokens: the default.
    """
    parser.add_argument("--conv-mode", metavar="TEMPLATE", help="prompt template (default: the checkpoint's own)")
    parser.add_argument("--temperature", type=float, default=0.2, help="0 is greedy, at most 2 (default: 0.2)")
    parser.add_argument("--top-p", "--top_p", type=float, default=None, help="nucleus sampling (default: off)")
    parser.add_argument("--num-beams", "--num_beams", type=int, default=1, help="beam search (default: 1, none)")
    parser.add_argument(
        "--max-new-tokens",
        "--max_new_tokens",
        type=int,
        default=max_new_tokens,
        help=f"tokens to write at most (default: {max_new_tokens})",
    )
