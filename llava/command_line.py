"""Runs a command the same way under `python -m llava.x.y` and under the console script `llava`.

A command is two functions: `add_arguments(parser)`, free of heavy imports, and `main(args) -> int`. A group of commands
is a table of `Tools`.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from llava.errors import LlavaError

AddArguments = Callable[[argparse.ArgumentParser], None]
Main = Callable[[argparse.Namespace], int]
Tools = Mapping[str, Mapping[str, tuple[str, str]]]
"""The commands of a group, by heading and then by name: the module, which must be light to import, and a summary."""

DONE, FAILED, WRONG_USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes; the last two are what a shell reports for SIGINT and SIGPIPE."""

_SUMMARY_COLUMN = 26


class HelpFormatter(argparse.HelpFormatter):
    """Wraps a description paragraph by paragraph and leaves indented ones (example commands) unchanged."""

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
    141 if the reader of a pipe went away (`| head`).
    """
    args = command_parser(add_arguments, description=description, prog=prog or _program()).parse_args(argv)
    return guarded(lambda: main(args), debug=args.debug)


def command_parser(
    add_arguments: AddArguments, *, description: str | None = None, prog: str | None = None
) -> argparse.ArgumentParser:
    """The parser of one command, with the flag `--debug` that every command has."""
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=HelpFormatter)
    add_arguments(parser)
    if "--debug" not in parser._option_string_actions:
        parser.add_argument("--debug", action="store_true", help="Show tracebacks and messages of libraries.")
    return parser


def run_module(module: str, *, prog: str, argv: Sequence[str]) -> int:
    """Runs the command or the group of commands in a module; returns the exit code."""
    command = import_module(module)
    if hasattr(command, "add_arguments"):
        return run(command.add_arguments, command.main, description=command.__doc__, argv=argv, prog=prog)
    return int(command.main(argv, prog=prog))  # a group, or training, which reads its own dataclasses


def run_group(
    tools: Tools,
    *,
    description: str | None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    aliases: Mapping[str, str] | None = None,
    elsewhere: Callable[[], Iterable[str]] = tuple,
) -> int:
    """Runs the command that the first word of `argv` names; returns the exit code.

    Args:
        tools: the commands of the group.
        description: shown above the list of commands.
        argv: the words after the name of the group; None takes those of the process.
        prog: the name of the group; None takes what the user typed.
        aliases: other names of commands.
        elsewhere: returns commands of other groups, such as "eval pope", to suggest for a mistyped name.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prog = prog or _program() or Path(sys.argv[0]).name
    if not words or words[0] in ("-h", "--help"):
        print(group_help(tools, prog=prog, description=description), file=sys.stdout if words else sys.stderr)
        return DONE if words else WRONG_USAGE
    name = words[0]
    modules = {tool: module for group in tools.values() for tool, (module, _) in group.items()}
    module = modules.get((aliases or {}).get(name, name))
    if module is None:
        print(f"error: {prog} has no command {name!r}. {_suggestion(name, modules, prog, elsewhere)}", file=sys.stderr)
        return WRONG_USAGE
    return run_module(module, prog=f"{prog} {name}", argv=words[1:])


def group_help(tools: Tools, *, prog: str, description: str | None) -> str:
    """What `--help` prints for a group: its commands under their headings, a line each."""
    lines = [f"usage: {prog} COMMAND ...", ""]
    if description:
        lines += [HelpFormatter(prog)._fill_text(description, 100, ""), ""]
    for heading, group in tools.items():
        lines += [f"{heading}:", *(f"  {name:<{_SUMMARY_COLUMN}}{text}" for name, (_, text) in group.items()), ""]
    return "\n".join([*lines, f"Run `{prog} COMMAND --help` for the options of a command."])


def _suggestion(name: str, names: Iterable[str], prog: str, elsewhere: Callable[[], Iterable[str]]) -> str:
    close = get_close_matches(name, names, n=1)
    if not close:
        by_last_word = {command.split()[-1]: command for command in elsewhere()}
        close = [by_last_word[word] for word in get_close_matches(name, by_last_word, n=1)]
    return f"Did you mean `{prog} {close[0]}`?" if close else f"Run `{prog} --help` for the list of commands."


def guarded(body: Callable[[], int], *, debug: bool = False) -> int:
    """Runs `body`; turns what it raises into the exit codes of `run` and a message on stderr."""
    if not debug:
        _quiet_transformers()
    try:
        code = body()
        sys.stdout.flush()  # a reader that has gone away is noticed here, not in the interpreter's own shutdown
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more as it ends, so it needs somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except LlavaError as error:
        return _failed(str(error), debug)
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ImportError as error:
        return _failed(f"{error}. Run `llava doctor --full` to see what is missing or broken.", debug)
    except MemoryError as error:
        return _failed(f"out of memory. {error}".strip(), debug)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; importing torch to name the class takes seconds
            return _failed(str(error), debug)
        traceback.print_exc()
        print(
            "error: this is a bug in LLaVA, not in your input. "
            "Please report the lines above with the command and the output of `llava doctor`.",
            file=sys.stderr,
        )
        return FAILED


def _program() -> str | None:
    """What the user typed: `python -m llava.x.y`, or None for argparse's default, the name of the file."""
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
