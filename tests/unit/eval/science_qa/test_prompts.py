"""ScienceQA as conversations: the original's text, character for character, in every prompt format."""

from __future__ import annotations

import json

import pytest

from llava.command_line import run
from llava.errors import InvalidRequest
from llava.eval import convert_science_qa
from llava.eval.science_qa.dataset import parse_problem
from llava.eval.science_qa.prompts import parse_format, render
from tests.support.science_qa import make_science_qa

INPUTS = ("CQM", "QCM", "QCML", "QCME", "QCMLE", "QCLM", "QCEM", "QCLEM")
OUTPUTS = ("A", "AL", "AE", "ALE", "AEL", "LA", "EA", "LEA", "ELA", "LEPA")


def convert(*words) -> int:
    return run(convert_science_qa.add_arguments, convert_science_qa.main, argv=[str(word) for word in words])


@pytest.fixture(scope="module")
def golden(data):
    return json.loads((data / "golden" / "science_qa" / "prompts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("answered", OUTPUTS)
@pytest.mark.parametrize("asked", INPUTS)
def test_every_format_is_the_originals_to_the_character(golden, asked, answered):
    style = parse_format(f"{asked}-{answered}")
    for name, raw in golden["problems"].items():
        said = render(parse_problem(name, raw, name), style)
        assert said == (golden["asked"][asked][name], golden["answered"][answered][name]), name


@pytest.mark.parametrize(
    ("text", "asked", "answered"),
    [
        ("QM-A", "Which?\nOptions: (A) x (B) y", "The answer is B."),
        ("MQC-PA", "Options: (A) x (B) y\nQuestion: Which?\nContext: N/A", "###\nANSWER: B."),
        ("LQM-EPA", "BECAUSE: lecture\nQuestion: Which?\nOptions: (A) x (B) y", "SOLUTION: solution\n###\nANSWER: B."),
    ],
)
def test_formats_that_the_original_did_not_list_follow_from_their_letters(text, asked, answered):
    raw = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "lecture": "lecture", "solution": "solution"}
    assert render(parse_problem("1", raw, "1"), parse_format(text)) == (asked, answered)


@pytest.mark.parametrize(
    "text",
    ["", "QCM", "QCM-", "-A", "QC-A", "CM-A", "QQCM-A", "QCM-AA", "QCM-LL", "QCM-LAE", "QCM-AP", "qcm-a", "QCM-A-A"],
)
def test_what_is_no_format_is_refused_with_examples(text):
    with pytest.raises(InvalidRequest, match="such as QCM-LEPA, QCM-ALE or CQM-A"):
        parse_format(text)


def test_the_conversion_is_the_originals_under_both_names(tmp_path, data, capsys):
    golden = data / "golden" / "science_qa"
    for name in ("problems.json", "pid_splits.json"):
        (tmp_path / name).write_bytes((golden / name).read_bytes())
    assert convert("convert_to_llava", "--base-dir", tmp_path, "--split", "test") == 0
    expected = json.loads((golden / "llava_test_QCM-LEPA.json").read_text())
    assert json.loads((tmp_path / "llava_test_QCM-LEPA.json").read_text()) == expected
    assert json.loads((tmp_path / "llava_test.json").read_text()) == expected
    assert "Number of samples: 12" in capsys.readouterr().out


def test_another_format_leaves_the_short_name_as_it_is(tmp_path):
    make_science_qa(tmp_path)
    assert convert("convert_to_llava", "--base-dir", tmp_path, "--split", "test") == 0
    before = (tmp_path / "llava_test.json").read_bytes()
    assert convert("convert_to_llava", "--base-dir", tmp_path, "--split", "test", "--prompt-format", "CQM-A") == 0
    assert (tmp_path / "llava_test.json").read_bytes() == before
    first = json.loads((tmp_path / "llava_test_CQM-A.json").read_text())[0]["conversations"][0]["value"]
    assert first.startswith("Context: N/A\nQuestion: Which of these is 1?")


def test_lines_for_other_trainers_have_the_same_texts(tmp_path):
    make_science_qa(tmp_path, 2)
    for task in ("convert_to_llava", "convert_to_jsonl"):
        assert convert(task, "--base-dir", tmp_path, "--split", "test") == 0
    lines = [json.loads(line) for line in (tmp_path / "scienceqa_test_QCM-LEPA.jsonl").read_text().splitlines()]
    records = json.loads((tmp_path / "llava_test.json").read_text())
    texts = [[turn["value"] for turn in record.pop("conversations")] for record in records]
    assert [[line.pop("instruction"), line.pop("output")] for line in lines] == texts
    assert lines == records == [{"id": "1"}, {"id": "2", "image": "2/image.png"}]
    assert texts[1][0].endswith("\n<image>")


@pytest.mark.parametrize(
    "words",
    [["test", "minitest"], ["test,minitest"], ["{test,minitest}"], ["{test,", "minitest}"], ["test", "test,minitest"]],
)
def test_several_splits_are_given_in_any_of_the_ways_shells_leave_them(tmp_path, words):
    make_science_qa(tmp_path)
    assert convert("convert_to_llava", "--base-dir", tmp_path, "--split", *words) == 0
    assert {file.name for file in tmp_path.glob("llava_*")} == {
        f"llava_{split}{ending}" for split in ("test", "minitest") for ending in (".json", "_QCM-LEPA.json")
    }


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["test", "tset"], {}, "has no split 'tset'. The splits are test, minitest, val. Did you mean 'test'?"),
        (["test", "val"], {}, "has no problem '13', which pid_splits.json lists in split 'val'"),
        (["{,}"], {}, "names no split"),
        (["test"], {3: {"answer": 3}}, "problem 3: 'answer' must be the index of one of the 3 choices, found 3"),
        (["test"], {3: {"answer": "A"}}, "problem 3: 'answer' must be the index of one of the 3 choices, found 'A'"),
        (["test"], {3: {"choices": list("uvwxyz")}}, "problem 3: has 6 choices, but only 5 letters"),
        (["test"], {3: {"choices": []}}, "problem 3: 'choices' must be a list of strings, found []"),
        (["test"], {3: {"question": None}}, "problem 3: 'question' must be a string, found a JSON null"),
        (["test"], {3: {"hint": 5}}, "problem 3: 'hint' must be a string, found a JSON number"),
        (["test"], {3: {"subject": "magic"}}, "problem 3: 'subject' is 'magic', expected one of natural science"),
        (["test"], {3: {"grade": "grade13"}}, "problem 3: 'grade' is 'grade13', expected grade1 to grade12"),
    ],
)
def test_data_that_are_wrong_are_named_and_nothing_is_written(tmp_path, capsys, words, changes, said):
    make_science_qa(tmp_path, changes=changes)
    assert convert("convert_to_llava", "--base-dir", tmp_path, "--split", *words) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.glob("*llava*")) == []


def test_a_folder_without_the_data_says_which_files_are_looked_for(tmp_path, capsys):
    assert convert("convert_to_llava", "--base-dir", tmp_path, "--split", "test") == 1
    assert "pid_splits.json: no such file. --base-dir must be the folder of ScienceQA" in capsys.readouterr().err
