"""Renders documents as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from typing import Any, Final

from llava.reports.document import Document, Section, Table

_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>|&~$!#])")
_FORMULA: Final = ("=", "+", "-", "@")


def as_text(document: Document) -> str:
    """Returns the document for a terminal, with aligned tables."""
    parts = [document.title] if document.titles_in_text else []
    parts.append(document.introduction)
    for section in document.sections:
        has_heading = section.heading and (document.titles_in_text or section.notes)
        lines = [*([section.heading] if has_heading else []), *(f"  {note}" for note in section.notes)]
        parts += ["\n".join(lines), section.paragraph, *map(table_as_text, section.tables)]
    return _joined(parts)


def as_markdown(document: Document, plot: str | None = None) -> str:
    """Returns the document as a Markdown page.

    Args:
        plot: file name of a plot beside the page, which the page then shows.
    """
    parts = [f"# {escaped(document.title)}", escaped(document.introduction)]
    parts += [f"![{escaped(document.plot_caption)}]({plot})"] if plot else []
    return _joined([*parts, *map(section_as_markdown, document.sections)])


def as_json(document: Document) -> str:
    """Returns the data of the document."""
    return json.dumps(document.data, indent=2)


def as_csv(table: Table) -> str:
    """Returns the values of a table, one line per row below a line of labels. None becomes an empty cell."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(table.head)
    writer.writerows([_csv_cell(value) for value in row] for row in table.rows)
    return lines.getvalue()


def rendered(document: Document, form: str) -> str:
    """Returns the document as `text`, `markdown`, `json` or `csv` (its main table), without a line end after it."""
    if form == "csv":
        return as_csv(next(iter(document.csv.values()))).rstrip("\n")
    return {"text": as_text, "markdown": as_markdown, "json": as_json}[form](document)


def section_as_markdown(section: Section) -> str:
    """Returns one section as Markdown."""
    heading = f"## {escaped(section.heading)}" if section.heading else ""
    notes = "\n".join(f"- {escaped(' '.join(note.split()))}" for note in section.notes)
    return _joined([heading, notes, escaped(section.paragraph), *map(table_as_markdown, section.tables)])


def table_as_text(table: Table) -> str:
    """Returns a table whose columns are aligned by spaces."""
    lines = [table.head, *table.cells]
    widths = [max(column.min_width, *(len(line[n]) for line in lines)) for n, column in enumerate(table.columns)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column.align == "left" else cell.rjust(width)
            for cell, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    )


def table_as_markdown(table: Table) -> str:
    """Returns a Markdown table that shows what its cells contain as it is."""
    rule = ["---" if column.align == "left" else "---:" for column in table.columns]
    lines = [[escaped(label) for label in table.head], rule, *([escaped(cell) for cell in row] for row in table.cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", text)


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _csv_cell(value: Any) -> Any:
    """Puts a quote, which spreadsheets do not show, before a name that they would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
