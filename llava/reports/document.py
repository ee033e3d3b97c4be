"""Describes a report as data: a document of sections, tables and notes.

`llava.reports.rendering` turns a document into text, Markdown, CSV or JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its heading and how its values become cells."""

    label: str
    align: Literal["left", "right"] = "right"
    format: Callable[[Any], str] = str
    """Turns a value into the text of its cell. CSV contains the value itself."""
    min_width: int = 0
    """Smallest width of the column in text, in characters."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under typed columns."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    """One value per column."""
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Where a page lets a cell lead, by row and column. Text, Markdown and CSV leave it out."""

    @classmethod
    def of_records(cls, names: Sequence[str], records: Iterable[Mapping[str, Any]]) -> Table:
        """Returns a table of unformatted values, one row per record and one column per name."""
        return cls([Column(name) for name in names], [[record[name] for name in names] for record in records])

    @property
    def head(self) -> list[str]:
        """The labels of the columns."""
        return [column.label for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[column.format(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report: notes, a paragraph and tables under one heading."""

    heading: str = ""
    notes: Sequence[str] = ()
    """Sentences that are listed below the heading."""
    paragraph: str = ""
    tables: Sequence[Table] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    introduction: str
    sections: Sequence[Section]
    data: Any = None
    """The JSON form: plain values, unrounded."""
    csv: Mapping[str, Table] = field(default_factory=dict)
    """The CSV form: tables by the ending of their file's stem. The first, whose ending is empty, is the main one."""
    plot_caption: str = ""
    """What the plot beside the report shows."""
    titles_in_text: bool = True
    """Whether the text form shows the title and the headings of tables, as Markdown always does."""


def number(spec: str, *, missing: str = "-") -> Callable[[float | None], str]:
    """Returns a column format that applies a format specification such as `.1f` and shows None as `missing`."""
    return lambda value: missing if value is None else format(value, spec)
