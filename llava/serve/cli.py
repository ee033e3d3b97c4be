"""Chats about images in the terminal, with a model loaded here or with a server's; or asks one question.

    llava chat                                        a chat with the small embedded model
    llava chat -i cat.jpg                             with an image to begin with
    llava chat --server http://localhost:10000        with a model that is served
    llava chat -i cat.jpg "What is in the picture?"   one question; the answer goes to standard output
    fetch-image | llava chat -i - "What is this?" --json

Inside of a chat /help lists the commands. A question on standard input is answered like one on the command line.
"""

from __future__ import annotations

import argparse
import sys

from llava.command_line import run
from llava.model.loading import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", help="asked once, without a prompt (default: standard input, if piped)")
    parser.add_argument(
        "--image-file",
        "--image",
        "-i",
        action="append",
        default=[],
        metavar="IMAGE",
        help="path, data URI or http(s) address; - reads standard input; repeat for several images",
    )
    parser.add_argument("--json", action="store_true", help="one question: print answer and figures as a JSON object")
    parser.add_argument("--plain", action="store_true", help="one question: print the answer's text as it is")
    _add_model_arguments(parser.add_argument_group("who answers"))
    _add_answer_arguments(parser.add_argument_group("how it answers"))
    _add_session_arguments(parser.add_argument_group("the chat"))


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    spellings = ("--model-path", "--model-name", "--model", "-m")
    arguments.add_model_path(group, *spellings, more="With --server, the name of a model that it serves.")
    group.add_argument(
        "--server",
        "--base-url",
        metavar="URL",
        help="ask a controller, a worker or any OpenAI-compatible server; nothing is loaded here",
    )
    group.add_argument(
        "--api-key-file", metavar="FILE", help="the server's key (default: the environment's LLAVA_API_KEY, if set)"
    )
    group.add_argument("--api-key-env", metavar="NAME", help="the variable of the environment that holds the key")
    arguments.add_arguments(group, split=True, flash_attention=True)


def _add_answer_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--conv-mode",
        "--conv-template",
        metavar="TEMPLATE",
        help="prompt template (default: the checkpoint's own)",
    )
    group.add_argument("--system", metavar="TEXT", help="the system prompt (default: the model's own)")
    group.add_argument("--temperature", type=float, default=0.2, help="0 is greedy, at most 2 (default: 0.2)")
    group.add_argument("--top-p", "--top_p", type=float, default=1.0, help="nucleus sampling (default: 1, off)")
    group.add_argument(
        "--max-new-tokens",
        "--max_new_tokens",
        type=int,
        default=512,
        metavar="N",
        help="tokens to write at most (default: 512)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable (default: not)")


def _add_session_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--load", metavar="FILE", help="go on with a conversation saved by /save or the web page")
    group.add_argument("--history", metavar="FILE", help="lines typed (default: ~/.local/state/llava/chat_history)")
    group.add_argument("--no-history", action="store_true", help="keep no history of what is typed")
    group.add_argument(
        "--thumbnails",
        choices=("auto", "kitty", "iterm", "sixel", "blocks", "none"),
        default="auto",
        help="how images are shown (default: the best that the terminal can)",
    )


def main(args: argparse.Namespace) -> int:
    from llava.serve.terminal.program import run_chat

    return run_chat(args)


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
