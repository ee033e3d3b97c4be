"""Question and answer files: joined by id, found from more than one folder, wrong ones named."""

from __future__ import annotations

import json

import pytest

from llava.errors import DataError
from llava.eval.data import records
from llava.eval.data.records import annotation_texts, locate, read_answers, read_questions, some, text_field
from tests.support.science_qa import write_lines


def test_ids_are_the_same_as_numbers_and_as_strings(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"question_id": identity} for identity in (3, "4", " 5")])
    assert list(read_answers(path).lines) == ["3", "4", "5"]


def test_an_id_that_is_there_twice_is_reported_and_its_last_record_counts(tmp_path):
    answers = [{"question_id": identity, "text": text} for identity, text in [(3, "a"), ("4", "b"), ("3", "c")]]
    read = read_answers(write_lines(tmp_path / "a.jsonl", answers))
    assert read.duplicates == ["3"]
    assert {identity: read.text(identity, "text") for identity in read.lines} == {"3": "c", "4": "b"}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"question_id": 1}, {"id": 2}], "line 2 has no 'question_id'"),
        ([{"question_id": 1.5}], "line 1: 'question_id' is 1.5; an id must be an integer or a non-empty string"),
        ([{"question_id": True}], "line 1: 'question_id' is True; an id must be"),
        ([{"question_id": " "}], "line 1: 'question_id' is ' '; an id must be"),
        ([{"question_id": None}], "line 1: 'question_id' is None; an id must be"),
        ([], "holds no records"),
    ],
)
def test_records_that_cannot_be_joined_are_named(tmp_path, lines, said):
    with pytest.raises(DataError, match=said):
        read_answers(write_lines(tmp_path / "a.jsonl", lines))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"question_id": 7}, r"line 1 \(question 7\): 'text' is missing"),
        ({"question_id": 7, "text": None}, r"line 1 \(question 7\): 'text' is a JSON null, expected a string"),
        ({"question_id": 7, "text": ["a"]}, r"line 1 \(question 7\): 'text' is a JSON list, expected a string"),
    ],
)
def test_a_text_that_is_none_is_named_with_line_and_id(tmp_path, record, said):
    read = read_answers(write_lines(tmp_path / "a.jsonl", [record]))
    with pytest.raises(DataError, match=said):
        read.text("7", "text")


def test_questions_are_json_lines_or_a_json_list(tmp_path):
    lines = write_lines(tmp_path / "q.jsonl", [{"question_id": 1}, {"question_id": 2}])
    listed = tmp_path / "q.json"
    listed.write_text(json.dumps([{"id": "1"}, {"id": "2"}]))
    assert list(read_questions(lines).lines) == list(read_questions(listed).lines) == ["1", "2"]


@pytest.mark.parametrize(
    ("questions", "said"),
    [([], "holds no records"), ([{"id": 1}, 2], "record 2 is a JSON number"), ([{"no": 1}], "record 1 has no 'id'")],
)
def test_a_list_of_questions_that_is_wrong_is_named_with_its_record(tmp_path, questions, said):
    (tmp_path / "q.json").write_text(json.dumps(questions))
    with pytest.raises(DataError, match=said):
        read_questions(tmp_path / "q.json")


def test_a_path_is_looked_for_in_the_current_folder_first_then_in_the_repository_then_in_eval(
    tmp_path, monkeypatch, capsys
):
    here, root, folder = tmp_path / "here", tmp_path / "root", tmp_path / "root" / "llava" / "eval"
    for place in (here, folder):
        place.mkdir(parents=True)
    monkeypatch.setattr(records, "REPOSITORY", root)
    monkeypatch.setattr(records, "EVAL_FOLDER", folder)
    monkeypatch.chdir(here)

    with pytest.raises(DataError, match=rf"a\.jsonl: no such file.*the current folder, {root} and {folder}\)\. Why"):
        locate("a.jsonl", remedy="Why")
    for place in (folder, root):
        (place / "a.jsonl").touch()
        assert locate("a.jsonl") == place / "a.jsonl"
        assert f"using {place / 'a.jsonl'}" in capsys.readouterr().err
    (here / "a.jsonl").touch()
    assert locate("a.jsonl").resolve() == here / "a.jsonl"
    assert capsys.readouterr().err == ""


def test_an_absolute_path_is_looked_for_nowhere_else(tmp_path):
    with pytest.raises(DataError, match=r"a\.jsonl: no such file or folder\. Check the path\."):
        locate(tmp_path / "a.jsonl")


def test_a_list_of_ids_shows_the_first_and_counts_the_rest():
    assert some(["1", "2"]) == "1, 2"
    assert some([str(number) for number in range(12)]) == "0, 1, 2, 3, 4 and 7 more"


def test_numbers_are_text_in_annotations_and_nowhere_else():
    record = {"answer": 2, "image": "a.jpg", "flag": True}
    assert annotation_texts(record, "here", "answer", "image") == ("2", "a.jpg")
    with pytest.raises(DataError, match="here: 'answer' is a JSON number, expected a string"):
        text_field(record, "answer", "here")
    with pytest.raises(DataError, match="here: 'flag' is a JSON boolean"):
        annotation_texts(record, "here", "flag")
