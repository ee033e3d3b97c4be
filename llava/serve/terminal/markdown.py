"""Renders Markdown for a terminal block by block, so that finished blocks can be printed while the text grows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.text import Text

_PARSER: Final = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
"""HTML tags are text; rich would silently drop them."""

Line = list[Segment]


def blocks(text: str) -> list[str]:
    """Splits a text into blocks (paragraphs, lists, tables, code, ...); joined, they are the text.

    Whatever follows can change only the last block.
    """
    begins = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.splitlines(keepends=True)
    ends = [*begins[1:], len(lines)]
    return ["".join(lines[begin:end]) for begin, end in zip([0, *begins[1:]], ends, strict=True)] if lines else []


def block_lines(text: str, console: Console) -> list[Line]:
    """Returns a block as lines of styled text, without empty lines around it."""
    options = console.options.update(height=None)
    lines = console.render_lines(_Answer(text), options, pad=False)
    while lines and not _visible(lines[0]):
        del lines[0]
    while lines and not _visible(lines[-1]):
        del lines[-1]
    return lines


class Lines:
    """Rendered lines, as an object that rich can print."""

    def __init__(self, lines: Iterable[Line]):
        self._lines = list(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._lines:
            yield from line
            yield Segment.line()


class _LeftHeading(Heading):
    """A heading at the left margin; rich would centre the largest ones."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text: Text = self.text.copy()
        text.justify = "left"
        yield text


class _Answer(Markdown):
    elements = {**Markdown.elements, "heading_open": _LeftHeading}  # noqa: RUF012, as its base class has it

    def __init__(self, text: str):
        # A link shows its address, because a model may write one thing and link to another.
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = text
        self.parsed = _PARSER.parse(text)


def _visible(line: Line) -> bool:
    return any(segment.text.strip() for segment in line)
