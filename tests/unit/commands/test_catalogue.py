"""The catalogue has every command of the package."""

from __future__ import annotations

from pathlib import Path

from llava.commands.catalogue import ALIASES, COMMANDS, GROUPS, entries, whole_parser

STARTERS = {"llava.__main__", "llava.commands.reference", *GROUPS}
"""Modules that run as programs without being commands of their own."""


def test_every_module_that_runs_as_a_program_is_in_the_catalogue(repository: Path):
    programs = set()
    for source in (repository / "llava").rglob("*.py"):
        if '__name__ == "__main__"' in source.read_text(encoding="utf-8"):
            programs.add(".".join(source.relative_to(repository).with_suffix("").parts))
    listed = {entry.module for entry in entries()} | STARTERS
    assert programs - listed == set()
    # `llava eval report` runs its package's __main__ under `python -m`
    assert listed - programs <= {"llava.eval.report.command"}


def test_no_command_is_listed_twice():
    progs = [entry.prog for entry in entries()]
    assert sorted(set(progs)) == sorted(progs)
    names = [name for group in COMMANDS.values() for name in group]
    assert sorted({*names, *ALIASES}) == sorted([*names, *ALIASES])


def test_every_command_has_a_summary_and_a_description():
    for entry in entries():
        assert entry.summary or not entry.words, entry.prog
        assert entry.parser().description, entry.prog


def test_the_parser_of_the_whole_command_line_knows_groups_and_tools(capsys):
    parsed = whole_parser().parse_args(["weights", "info", "folder"])
    assert vars(parsed)
