"""The format in which scorers hand their marks to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import DataError
from llava.eval.scoring.marks import MarkedAnswer, MarkSheet, marks_as_json, read_marks

MARK = {"question_id": 17, "score": 1, "text": "Yes."}


def written(folder: Path, content: object) -> Path:
    path = folder / "marks.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_marks_come_back_as_they_were_written(tmp_path):
    sheet = MarkSheet(
        "POPE",
        [
            MarkedAnswer("1", "Yes, a dog.", 1.0, "yes", "yes", "A dog?", "1.jpg", ("adversarial", "all"), "sure"),
            MarkedAnswer("2", None, 0.0, target="no"),
            MarkedAnswer("3", "Perhaps.", None),
        ],
        "tiny",
        {"F1": 66.7},
    )
    assert read_marks(written(tmp_path, {"more": "of the scorer", **marks_as_json(sheet)})) == sheet


@pytest.mark.parametrize(
    ("mark", "outcome"),
    [
        (MarkedAnswer("1", "B", 1.0, "B"), "right"),
        (MarkedAnswer("1", "red", 0.3, "red"), "partly right"),
        (MarkedAnswer("1", "B", 0.0, "B"), "wrong"),
        (MarkedAnswer("1", "Well.", 0.0), "unparsable"),
        (MarkedAnswer("1", None, 0.0), "missing"),
        (MarkedAnswer("1", "B", None, "B"), "not marked"),
    ],
)
def test_an_outcome_says_what_became_of_an_answer(mark, outcome):
    assert mark.outcome == outcome


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([MARK], "has no list 'marks'"),
        ({"marks": []}, "'marks' is empty"),
        ({"marks": [MARK, 3]}, r"mark 2: is a JSON number"),
        ({"marks": [{"score": 1, "text": "B"}]}, r"mark 1: 'question_id' is None"),
        ({"marks": [{"question_id": 4, "text": "B"}]}, r"mark 1 \(question 4\): 'score' is missing"),
        ({"marks": [MARK | {"score": 2}]}, r"question 17\): 'score' is 2, expected a number from 0 to 1"),
        ({"marks": [MARK | {"score": True}]}, r"'score' is True"),
        ({"marks": [MARK | {"text": ["B"]}]}, r"question 17\): 'text' is a JSON list"),
        ({"marks": [MARK | {"categories": "NAT"}]}, r"'categories' must be a list"),
        ({"marks": [MARK, MARK | {"question_id": "17"}]}, "mark 2: question 17 is marked twice"),
        ({"marks": [MARK], "figures": {"F1": "high"}}, "figure 'F1' is 'high'"),
    ],
)
def test_a_wrong_sheet_names_file_mark_and_question(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_marks(written(tmp_path, content))
    assert str(tmp_path / "marks.json") in str(caught.value)
