"""One document as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json

import pytest

from llava.reports.document import Column, Document, Section, Table, number
from llava.reports.rendering import as_csv, as_markdown, as_text, rendered, table_as_text

COLUMNS = [Column("model", "left"), Column("score", format=number(".1f")), Column("votes", format=number(","))]
TABLE = Table(COLUMNS, [["a|b", 81.25, 1234], ["tiny", None, 7]])


@pytest.fixture
def document() -> Document:
    sections = [
        Section("Results", paragraph="Of *all* votes.", tables=[TABLE]),
        Section("Notes", notes=["Few  votes."]),
    ]
    return Document("Arena", "Two models.", sections, data={"models": ["a|b", "tiny"]}, csv={"": TABLE})


def test_text_aligns_names_to_the_left_and_numbers_to_the_right(document):
    assert as_text(document) == (
        "Arena\n\nTwo models.\n\nResults\n\nOf *all* votes.\n\n"
        "model  score  votes\na|b     81.2  1,234\ntiny       -      7\n\nNotes\n  Few  votes."
    )


def test_text_without_titles_keeps_the_heading_of_notes(document):
    plain = as_text(Document("Arena", "Two models.", document.sections, titles_in_text=False))
    assert plain.startswith("Two models.\n\nOf *all* votes.\n\nmodel")
    assert plain.endswith("\n\nNotes\n  Few  votes.")


def test_a_column_is_at_least_as_wide_as_it_is_told():
    table = Table([Column("", "left"), Column("NAT", min_width=6)], [["questions", 12]])
    assert table_as_text(table) == f"{'NAT':>17}\nquestions{'12':>8}"


def test_markdown_shows_cells_as_they_are_and_the_plot_beside_them(document):
    page = as_markdown(document, "plot.svg")
    assert page.startswith("# Arena\n\nTwo models.\n\n![](plot.svg)\n\n## Results\n\nOf \\*all\\* votes.\n\n| model |")
    assert "| --- | ---: | ---: |\n| a\\|b | 81.2 | 1,234 |" in page
    assert page.endswith("## Notes\n\n- Few votes.")


def test_csv_has_the_values_themselves_and_no_formulas():
    found = list(csv.reader(io.StringIO(as_csv(Table(COLUMNS, [["=1+1", 81.25, 1234], ["tiny", None, 7]])))))
    assert found == [["model", "score", "votes"], ["'=1+1", "81.25", "1234"], ["tiny", "", "7"]]


def test_every_form_has_a_name(document):
    assert rendered(document, "text") == as_text(document)
    assert rendered(document, "markdown") == as_markdown(document)
    assert json.loads(rendered(document, "json")) == {"models": ["a|b", "tiny"]}
    assert rendered(document, "csv") == as_csv(TABLE).rstrip("\n")
