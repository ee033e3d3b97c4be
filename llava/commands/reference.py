"""Writes the reference of all commands and flags as Markdown, from the parsers themselves.

python -m llava.commands.reference --output docs/cli.md
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from pathlib import Path

from llava.command_line import DONE, run
from llava.commands.catalogue import ALIASES, COMMANDS, CatalogueEntry, entries

STDOUT = "-"

_ARGPARSE_TITLES = ("positional arguments", "options", "optional arguments")
"""What argparse calls the groups that a command gives no title; it depends on the release of Python."""

INTRODUCTION = """# Command reference

All commands and their options. `make docs` writes this file from the parsers; do not edit it by hand.
`llava COMMAND --help` prints the same text in the terminal, and every `llava` command also runs as `python -m MODULE`.

Every command takes `--debug`, which shows tracebacks and messages of libraries, and exits with 0 if it is done, 1 if it
failed (one line on stderr says why), 2 if the command line is wrong, or 130 if it was interrupted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default=STDOUT, metavar="FILE", help="Output file (default: -, standard output).")


def main(args: argparse.Namespace) -> int:
    text = reference()
    if args.output == STDOUT:
        print(text, end="")
    else:
        Path(args.output).write_text(text, encoding="utf-8")
    return DONE


def reference() -> str:
    """The whole reference. It depends on the parsers alone, not on the terminal or on Python's own help formatter."""
    everything = list(entries())
    parts = [INTRODUCTION]
    for heading in COMMANDS:
        commands = [entry for entry in everything if entry.heading == heading]
        parts += [f"- [{heading}](#{_anchor(heading)}): {', '.join(map(_link, commands))}"]
    for heading in COMMANDS:
        parts.append(f"\n## {heading}")
        parts += [_section(entry) for entry in everything if entry.heading == heading]
    return "\n".join(parts) + "\n"


def _section(entry: CatalogueEntry) -> str:
    parser = entry.parser()
    lines = [f"\n### {entry.prog}", ""]
    if entry.words:
        others = [f"`llava {alias}`" for alias, name in ALIASES.items() if (name,) == entry.words]
        lines += [f"Also runs as {' or '.join([*others, f'`python -m {entry.program}`'])}.", ""]
    if parser.description:
        lines += [_paragraphs(parser.description), ""]
    for title, options in _groups(parser):
        if title:
            lines += [f"{title[:1].upper()}{title[1:]}:", ""]
        lines += [*(_item(action, parser.prog) for action in options), ""]
    if parser.epilog:
        lines += [_paragraphs(parser.epilog), ""]
    return "\n".join(lines).rstrip()


def _groups(parser: argparse.ArgumentParser) -> list[tuple[str, list[argparse.Action]]]:
    """The options by the titles that the command gives them; those without a title come first."""
    groups: dict[str, list[argparse.Action]] = {"": []}
    for group in parser._action_groups:
        title = "" if group.title is None or group.title in _ARGPARSE_TITLES else group.title
        groups.setdefault(title, []).extend(filter(_is_shown, group._group_actions))
    return [(title, options) for title, options in groups.items() if options]


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and action.dest not in ("help", "debug")


def _item(action: argparse.Action, prog: str) -> str:
    values = _values(action)
    name = " ".join(filter(None, [", ".join(action.option_strings), values]))
    required = " (required)" if action.required and action.option_strings else ""
    text = (action.help or "") % {**_plain(action), "prog": prog}
    return f"- `{name}`{required}{': ' if text else ''}{_escaped(' '.join(text.split()))}"


def _plain(action: argparse.Action) -> dict[str, object]:
    known = {name: value for name, value in vars(action).items() if value is not argparse.SUPPRESS}
    return known | {"choices": ", ".join(map(str, action.choices or ()))}


def _values(action: argparse.Action) -> str:
    """The values of an option as `--help` writes them, such as `FILE [FILE ...]`."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    name = action.metavar
    if name is None and action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    if name is None:
        name = action.dest.upper() if action.option_strings else action.dest
    if isinstance(action.nargs, int):
        return " ".join([name] * action.nargs)
    return {"?": "[{}]", "+": "{0} [{0} ...]", "*": "[{} ...]", "...": "..."}.get(action.nargs or "", "{}").format(name)


def _paragraphs(text: str) -> str:
    """A docstring as Markdown: indented paragraphs are examples and stay as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else _escaped(p) for p in paragraphs)


def _escaped(text: str) -> str:
    """Keeps Markdown from reading `<image>` as HTML and `*` as emphasis, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*|])", r"\\\1", part) for part in parts)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _link(entry: CatalogueEntry) -> str:
    return f"[{' '.join(entry.words) or entry.module}](#{_anchor(entry.prog)})"


if __name__ == "__main__":
    sys.exit(run(add_arguments, main, description=__doc__))
