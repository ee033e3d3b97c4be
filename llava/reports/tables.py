"""Tables as aligned text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>|&~$!#])")
_FORMULA: Final = ("=", "+", "-", "@")

Rows = Sequence[Sequence[str]]


def aligned(head: Sequence[str], rows: Rows, texts: Collection[int]) -> str:
    """For a terminal; the columns in `texts` to the left, all others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    )


def markdown(head: Sequence[str], rows: Rows, texts: Collection[int]) -> str:
    """As `aligned`; what cells hold is shown as it is, whatever it means in Markdown."""
    rule = ["---" if column in texts else "---:" for column in range(len(head))]
    lines = [head, rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", text)


def as_csv(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """One line a record, with a head; None is an empty cell."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: _csv_cell(value) for name, value in record.items()})
    return lines.getvalue()


def _csv_cell(value: Any) -> Any:
    """A name that a spreadsheet would run as a formula gets a quote before it, which spreadsheets do not show."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
