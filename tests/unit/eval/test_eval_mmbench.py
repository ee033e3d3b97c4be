"""MMBench: the option that an answer names, rotated options and the submission, on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from openpyxl import load_workbook

from llava.eval.scoring.mmbench_table import named_option
from tests.support.benchmarks import answers, evaluate, said, values, write_lines

OPTIONS = {"A": "a red cup", "B": "a blue cup", "C": "a dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) a dog", "C"),
        ("The answer is B", "B"),
        ("It is A dog", "C"),
        ("A", "A"),
        ("A or B", None),
        ("a Blue cup, of course", "B"),
        ("a cup", None),
        ("a red cup and a dog", None),
        ("D", None),
        ("", None),
    ],
)
def test_mmbench_finds_the_one_option_that_is_named(text, letter):
    assert named_option(text, OPTIONS) == letter


MMBENCH_COLUMNS = [
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]


def mmbench_row(index: int, options: str, answer: str, category: str = "colour") -> list[str]:
    letters = [*options.split("/"), "", "", ""][:4]
    return [
        str(index),
        f"What is {index}?",
        "nan",
        *letters,
        answer,
        category,
        "x" * 200_000,
        "own",
        "seeing",
        "",
        "dev",
    ]


def mmbench_table(path: Path, *rows: list[str]) -> Path:
    path.write_text("\n".join("\t".join(row) for row in [MMBENCH_COLUMNS, *rows]) + "\n", encoding="utf-8")
    return path


def test_mmbench_counts_a_question_only_if_all_its_rotations_in_the_table_are_right(tmp_path):
    table = mmbench_table(
        tmp_path / "dev.tsv",
        mmbench_row(1, "red/blue", "A"),
        mmbench_row(2, "dog/cat", "B", "animal"),
        mmbench_row(1_000_001, "blue/red", "B"),
        mmbench_row(1_000_002, "cat/dog", "A", "animal"),
    )
    output = tmp_path / "o.json"
    result = answers(tmp_path / "a.jsonl", [(1, "A"), (2, "B"), (1_000_001, "B"), (1_000_002, "B. dog")], round_id=0)
    assert evaluate("eval_mmbench", annotation_file=table, result_file=result, output=output) == 0
    assert values(output) == {
        "accuracy": 100,
        "circular": 50,
        "circular seeing": 50,
        "circular animal": 0,
        "circular colour": 100,
    }


def test_mmbench_maps_letters_back_where_the_generator_rotated_the_options(tmp_path):
    """Question 1 is right in both rounds, question 2 in the first alone."""
    table = mmbench_table(tmp_path / "dev.tsv", mmbench_row(1, "red/blue", "A"), mmbench_row(2, "dog/cat", "B"))
    rounds = [(1, 0, "A", "AB"), (1, 1, "B", "BA"), (2, 0, "cat", "AB"), (2, 1, "B", "BA")]
    result = write_lines(
        tmp_path / "a.jsonl",
        [{"question_id": i, "round_id": r, "text": text, "option_char": list(o)} for i, r, text, o in rounds],
    )
    output = tmp_path / "o.json"
    assert evaluate("eval_mmbench", annotation_file=table, result_file=result, output=output) == 0
    assert (values(output)["accuracy"], values(output)["circular"]) == (100, 50)
    assert said(output)["marks"][3] | {"question": None} == {
        "question_id": "2 | 1",
        "score": 0.0,
        "text": "B",
        "parsed": "A. dog",
        "target": "B. cat",
        "question": None,
        "categories": ["colour", "seeing"],
    }


def test_mmbench_names_a_rotation_without_an_answer(tmp_path, capsys):
    table = mmbench_table(
        tmp_path / "dev.tsv", mmbench_row(1, "red/blue", "A"), mmbench_row(1_000_001, "blue/red", "B")
    )
    assert evaluate("eval_mmbench", annotation_file=table, result_file=answers(tmp_path / "a.jsonl", [(1, "A")])) == 0
    captured = capsys.readouterr()
    assert "questions without an answer: 1 (counted as wrong): 1000001 | 0" in captured.err
    assert captured.out.splitlines()[2].split()[:2] == ["circular", "0.00"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["1", "q"], "line 3: has 2 fields, but the header has 14"),
        (mmbench_row(1, "red/blue", "A"), "line 3: index 1 appears twice"),
        (mmbench_row(2, "red/blue", "C"), "index 2: the answer 'C' is not one of the options A, B"),
    ],
)
def test_mmbench_names_the_row_that_is_wrong(tmp_path, capsys, row, message):
    table = mmbench_table(tmp_path / "dev.tsv", mmbench_row(1, "red/blue", "A"), row)
    assert evaluate("eval_mmbench", annotation_file=table, result_file=answers(tmp_path / "a.jsonl", [(1, "A")])) == 1
    assert message in capsys.readouterr().err


@pytest.fixture
def mmbench_submission(tmp_path: Path) -> dict[str, object]:
    table = mmbench_table(tmp_path / "dev.tsv", mmbench_row(7, "red/=1+1", "A"), mmbench_row(8, "dog/cat", "B"))
    rounds = [(7, 0, "=B\x01"), (7, 1, "A")]
    write_lines(tmp_path / "tiny.jsonl", [{"question_id": i, "round_id": r, "text": text} for i, r, text in rounds])
    return {"annotation_file": table, "result_dir": tmp_path, "upload_dir": tmp_path / "up", "experiment": "tiny"}


def test_mmbench_submission_is_a_workbook_with_the_predictions_as_texts(mmbench_submission, tmp_path, capsys):
    assert evaluate("convert_mmbench", **mmbench_submission) == 0
    rows = list(load_workbook(tmp_path / "up" / "tiny.xlsx").active.iter_rows())
    assert [[cell.value for cell in row] for row in rows] == [
        ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"],
        [7, "What is 7?", "red", "=1+1", None, None, "=B", "A", "dev"],
        [8, "What is 8?", "dog", "cat", None, None, None, "B", "dev"],
    ]
    assert rows[1][6].data_type == "s"
    err = capsys.readouterr().err
    assert "questions without an answer: 1 (an empty cell): 8 | 0" in err
    assert "1 answers of later rounds are ignored" in err


def test_mmbench_submission_can_be_plain_text(mmbench_submission, tmp_path):
    assert evaluate("convert_mmbench", **mmbench_submission, format="csv") == 0
    lines = (tmp_path / "up" / "tiny.csv").read_text().splitlines()
    assert lines[2] == "8,What is 8?,dog,cat,,,,B,dev"
