"""Runs a command the same way under `python -m llava.x.y` and under the console script `llava`.

A command is two functions: `add_arguments(parser)`, free of heavy imports, and `main(args) -> int`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from llava.errors import LlavaError

AddArguments = Callable[[argparse.ArgumentParser], None]
Main = Callable[[argparse.Namespace], int]


def run(
    add_arguments: AddArguments,
    main: Main,
    *,
    description: str | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Parses `argv` and runs `main`; returns the exit code.

    Exit codes: 0 done, 1 failed (one line on stderr, or the traceback with `--debug`), 2 wrong usage, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add_arguments(parser)
    if "--debug" not in parser._option_string_actions:
        parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    try:
        return main(args)
    except LlavaError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
