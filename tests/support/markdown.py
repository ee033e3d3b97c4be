"""Reads the fenced blocks of Markdown files, so that tests run the commands that the documentation prints."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

HEADING = re.compile(r"(#+) (.*)")
FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True)
class Block:
    """One fenced block of a Markdown file."""

    sections: tuple[str, ...]
    """The headings that it stands under, outermost first."""

    language: str
    line: int
    text: str

    def commands(self) -> list[str]:
        """The block's shell commands, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]

    def output_of(self) -> dict[str, str]:
        """In a block that shows a session: what each `$ command` printed."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return {command: output.strip() for command, _, output in (part.partition("\n") for part in parts)}


def blocks(file: Path) -> list[Block]:
    found: list[Block] = []
    sections: list[str] = []
    language, start, text = "", 0, []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if start and not fence:
            text.append(line)
        elif start:
            found.append(Block(tuple(sections), language, start, "\n".join(text)))
            start, text = 0, []
        elif fence:
            language, start = fence.group(1), number
        elif heading := HEADING.match(line):
            sections[len(heading.group(1)) - 1 :] = [heading.group(2)]
    return found


def commands_under(file: Path, section: str, *, within: str, languages: Collection[str] = ("Shell",)) -> list[str]:
    """The shell commands that a file prints in a section of another section, or in that section itself."""
    return [
        command
        for block in blocks(file)
        if section in block.sections and within in block.sections and block.language in languages
        for command in block.commands()
    ]
