"""docs/cli.md is the reference that the parsers give today."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava.commands.catalogue import entries
from llava.commands.reference import reference


def test_the_reference_in_the_docs_is_current(repository: Path):
    text = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text.splitlines() == reference().splitlines(), "run `make docs`"


def test_the_reference_has_every_command_and_every_flag():
    text = reference()
    for entry in entries():
        assert f"\n### {entry.prog}\n" in text
        section = text.partition(f"\n### {entry.prog}\n")[2].partition("\n### ")[0]
        for action in entry.parser()._actions:
            if action.option_strings and action.dest not in ("help", "debug") and action.help != "==SUPPRESS==":
                assert ", ".join(action.option_strings) in section, entry.prog


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_reference_does_not_depend_on_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch):
    before = reference()
    monkeypatch.setenv("COLUMNS", columns)
    assert reference() == before
