"""Prints a script that completes the commands, flags and files of `llava` in your shell.

bash, for every new shell of yours:

    llava completion bash > ~/.local/share/bash-completion/completions/llava

zsh, with a folder of `$fpath`:

    llava completion zsh > ~/.zsh/completions/_llava
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from llava.command_line import DONE, run

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"Your shell: {', '.join(SHELLS)}.")


def main(args: argparse.Namespace) -> int:
    print(script(args.shell))
    return DONE


def script(shell: str) -> str:
    """The completion script of `llava` for one of SHELLS."""
    import shtab

    from llava.commands.catalogue import whole_parser

    parser = whole_parser()
    _complete_paths(parser, {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY})
    return shtab.complete(parser, shell=shell)


def _complete_paths(parser: argparse.ArgumentParser, completers: dict[str, Any]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, completers)
        elif isinstance(action.metavar, str) and action.metavar in completers:
            action.complete = completers[action.metavar]  # type: ignore[attr-defined]  # where shtab looks for it


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
