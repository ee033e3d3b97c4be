"""Markdown for a terminal, block by block, so that what is finished can be printed while the rest still grows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.text import Text

_PARSER: Final = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
"""Tags are text: rich would drop them without a word."""

Line = list[Segment]


def blocks(text: str) -> list[str]:
    """The text in its blocks (paragraphs, lists, tables, code, ...); joined they are the text.

    Nothing that follows can change any but the last one.
    """
    begins = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.splitlines(keepends=True)
    ends = [*begins[1:], len(lines)]
    return ["".join(lines[begin:end]) for begin, end in zip([0, *begins[1:]], ends, strict=True)] if lines else []


def block_lines(text: str, console: Console) -> list[Line]:
    """One block as lines of styled text, without empty lines around it."""
    options = console.options.update(height=None)
    lines = console.render_lines(_Answer(text), options, pad=False)
    while lines and not _visible(lines[0]):
        del lines[0]
    while lines and not _visible(lines[-1]):
        del lines[-1]
    return lines


class Lines:
    """Lines that are rendered already, as something that rich prints."""

    def __init__(self, lines: Iterable[Line]):
        self._lines = list(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


class _LeftHeading(Heading):
    """At the margin; rich centres the largest ones in the whole width."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text: Text = self.text.copy()
        text.justify = "left"
        yield text


class _Answer(Markdown):
    elements = {**Markdown.elements, "heading_open": _LeftHeading}  # noqa: RUF012, as its base class has it

    def __init__(self, text: str):
        # A link shows its address: what a model writes may lead elsewhere than it says.
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = text
        self.parsed = _PARSER.parse(text)


def _visible(line: Line) -> bool:
    return any(segment.text.strip() for segment in line)
