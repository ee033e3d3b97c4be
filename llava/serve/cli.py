"""Chats about images in the terminal, with a model loaded here or with a server; or answers one question.

    llava chat                                        chat with the embedded model `tiny`
    llava chat -i cat.jpg                             chat about an image
    llava chat --server http://localhost:10000        chat with a model of a server
    llava chat -i cat.jpg "What is in the picture?"   print the answer to one question
    fetch-image | llava chat -i - "What is this?" --json

In a chat, /help lists the commands. A question can also come from standard input.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.model.loading import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "question", nargs="?", help="Question to answer before exiting (default: standard input if piped, else chat)."
    )
    parser.add_argument(
        "--image-file",
        "--image",
        "-i",
        action="append",
        default=[],
        metavar="IMAGE",
        help="Path, data URI or URL of an image; - reads standard input. Repeat for several images.",
    )
    parser.add_argument(
        "--json", action="store_true", help="Print answer, token counts and times of one question as a JSON object."
    )
    parser.add_argument("--plain", action="store_true", help="Print the answer to one question as plain text.")
    _add_model_arguments(parser.add_argument_group("model"))
    _add_answer_arguments(parser.add_argument_group("answers"))
    _add_chat_arguments(parser.add_argument_group("chat"))


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    spellings = ("--model-path", "--model-name", "--model", "-m")
    arguments.add_model_path(group, *spellings, more="With --server, the name of a model that it serves.")
    group.add_argument(
        "--server",
        "--base-url",
        metavar="URL",
        help="Ask a controller, a worker or any OpenAI-compatible server instead of loading a model.",
    )
    group.add_argument(
        "--api-key-file", metavar="FILE", help="File with the server's API key (default: $LLAVA_API_KEY, if set)."
    )
    group.add_argument("--api-key-env", metavar="NAME", help="Environment variable with the server's API key.")
    arguments.add_arguments(group, split=True, flash_attention=True)


def _add_answer_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--conv-mode",
        "--conv-template",
        metavar="TEMPLATE",
        help="Prompt template (default: the checkpoint's own).",
    )
    group.add_argument("--system", metavar="TEXT", help="System prompt (default: the model's own).")
    group.add_argument(
        "--temperature",
        type=float,
        default=0.2,
        metavar="T",
        help="Sampling temperature, 0 (greedy) to 2 (default: 0.2).",
    )
    group.add_argument(
        "--top-p",
        "--top_p",
        type=float,
        default=1.0,
        metavar="P",
        help="Probability mass for nucleus sampling, at most 1 (default: 1, off).",
    )
    group.add_argument(
        "--max-new-tokens",
        "--max_new_tokens",
        type=int,
        default=512,
        metavar="N",
        help="Maximum length of an answer in tokens (default: 512).",
    )
    group.add_argument("--seed", type=int, metavar="N", help="Random seed, for repeatable sampling (default: random).")


def _add_chat_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--load", metavar="FILE", help="Conversation to continue, saved by /save or by the web page (default: none)."
    )
    group.add_argument(
        "--history",
        metavar="FILE",
        help="File that keeps the lines you type (default: ~/.local/state/llava/chat_history).",
    )
    group.add_argument("--no-history", action="store_true", help="Do not write the lines you type to a file.")
    group.add_argument(
        "--thumbnails",
        choices=("auto", "kitty", "iterm", "sixel", "blocks", "none"),
        default="auto",
        help="How to show images (default: auto, the best that the terminal supports).",
    )


def main(args: argparse.Namespace) -> int:
    if (
        not args.server and sys.stderr.isatty()
    ):  # before the imports, so that a user sees at once that something happens
        print(f"Loading {args.model_path or 'tiny'} ...", file=sys.stderr, flush=True)
    from llava.serve.terminal.program import run_chat
    from llava.serve.terminal.settings import ChatSettings

    return run_chat(ChatSettings.from_args(args))


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
