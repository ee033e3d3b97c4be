"""Runs a command the same way under `python -m llava.x.y` and under the console script `llava`.

A command is two functions: `add_arguments(parser)`, free of heavy imports, and `main(args) -> int`.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from llava.errors import LlavaError

AddArguments = Callable[[argparse.ArgumentParser], None]
Main = Callable[[argparse.Namespace], int]
Tools = Mapping[str, tuple[str, str]]
"""The commands of a group: by name, the module, which must be light to import, and what it does in a few words."""

DONE, FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes; the last two are what a shell reports for SIGINT and SIGPIPE."""


class HelpFormatter(argparse.HelpFormatter):
    """Wraps a description paragraph by paragraph, and leaves indented ones (example commands) as they stand."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = textwrap.dedent(text).strip().split("\n\n")
        return "\n\n".join(p if p.startswith(" ") else textwrap.fill(p, width) for p in paragraphs)


def run(
    add_arguments: AddArguments,
    main: Main,
    *,
    description: str | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Parses `argv` and runs `main`; returns the exit code.

    Exit codes: 0 done, 1 failed (one line on stderr; `--debug` adds the traceback), 2 wrong usage, 130 interrupted,
    141 when the reader of a pipe went away (`| head`).
    """
    parser = argparse.ArgumentParser(prog=prog or _program(), description=description, formatter_class=HelpFormatter)
    add_arguments(parser)
    if "--debug" not in parser._option_string_actions:
        parser.add_argument("--debug", action="store_true", help="show tracebacks and the messages of the libraries")
    args = parser.parse_args(argv)
    return guarded(lambda: main(args), debug=args.debug)


def add_tools(parser: argparse.ArgumentParser, tools: Tools) -> None:
    """Makes `parser` that of a group: one word chooses the tool, the rest are its arguments."""
    words = parser.add_subparsers(dest="tool", metavar="TOOL", required=True)
    for name, (module, summary) in tools.items():
        tool = import_module(module)
        tool.add_arguments(
            words.add_parser(name, help=summary, description=tool.__doc__, formatter_class=HelpFormatter)
        )


def run_tool(args: argparse.Namespace, tools: Tools) -> int:
    """Runs the tool that was chosen; returns its exit code."""
    return int(import_module(tools[args.tool][0]).main(args))


def guarded(body: Callable[[], int], *, debug: bool = False) -> int:
    """Runs `body` and turns what it raises into an exit code and a message on stderr, as `run` says."""
    if not debug:
        _quiet_transformers()
    try:
        code = body()
        sys.stdout.flush()  # a reader that has gone away shows here, not in the interpreter's own shutdown
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more as it ends: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except LlavaError as error:
        return _failed(str(error), debug)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ImportError as error:
        return _failed(f"{error}. `llava doctor` tells what is missing or broken, and what to install.", debug)
    except MemoryError as error:
        return _failed(f"out of memory. {error}".strip(), debug)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, whose import this module must not cost
            return _failed(str(error), debug)
        traceback.print_exc()
        print(
            "error: the lines above show a mistake in LLaVA, not in what you gave it. "
            "Please report them, with the command and the output of `llava doctor`.",
            file=sys.stderr,
        )
        return FAILED


def _program() -> str | None:
    """What the user typed: `python -m llava.x.y`, or None for argparse's own choice, the name of the file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else None


def _failed(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return FAILED


def _quiet_transformers() -> None:
    # What transformers reports while it loads (missing or unexpected weights, odd configurations) our loaders check
    # themselves and raise as typed errors; the rest is advice to programmers. A user's own setting wins.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
