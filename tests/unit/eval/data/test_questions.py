"""Questions of every file format: read, told apart, divided among processes, their images found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import DataError, InvalidRequest
from llava.eval.data.questions import by_image, chunk, distinct, read_science_qa, read_text_only, read_vqa, with_files
from llava.eval.model_vqa_mmbench import read_mmbench
from tests.support.science_qa import write_lines
from tests.support.vqa import ask


def read(folder: Path, *questions: object):
    return read_vqa(write_lines(folder / "q.jsonl", list(questions)))


def test_a_question_has_its_id_as_it_is_and_one_two_or_no_images(tmp_path):
    one, two, none = read(tmp_path, ask(3), ask("b", image=["x.png", "y.png"]), {"question_id": 4, "text": "Why?"})
    assert [question.record["question_id"] for question in (one, two, none)] == [3, "b", 4]
    assert [question.images for question in (one, two, none)] == [("sneaker.png",), ("x.png", "y.png"), ()]


def test_a_file_with_line_ends_of_another_system_and_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(ask(number)).encode() for number in (1, 2)) + b"\r\n")
    assert [question.key[0] for question in read_vqa(file)] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "q.jsonl: holds no questions"),
        ('{"question_id": 1, "text": "a"}\n{"question_id": 2, "te', "line 2: not JSON .* The file ends there"),
        ('{"question_id": 1}', r"line 1 \(question 1\): 'text' is missing"),
        ('{"question_id": 1, "text": 5}', r"line 1 \(question 1\): 'text' is a JSON number"),
        ('{"text": "a"}', "line 1 has no 'question_id'"),
        ('{"question_id": null, "text": "a"}', "line 1: 'question_id' is None"),
        ('{"question_id": 1, "text": "a", "image": 7}', r"line 1 \(question 1\): 'image' must be the name"),
        ('{"question_id": 1, "text": "a", "image": ""}', r"line 1 \(question 1\): 'image' must be the name"),
    ],
)
def test_a_question_file_that_is_wrong_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        read_vqa(tmp_path / "q.jsonl")


def test_questions_without_images_leave_an_image_field_alone(tmp_path):
    [question] = read_text_only(write_lines(tmp_path / "q.jsonl", [ask(1)]))
    assert question.images == ()


# The same question twice


def test_a_repeated_question_is_asked_once_and_said(tmp_path, capsys):
    kept = distinct(read(tmp_path, ask(1), ask(2), ask("1"), ask(2, "Why?")))
    assert [question.key[::2] for question in kept] == [
        ("1", "What is in the picture?"),
        ("2", "What is in the picture?"),
        ("2", "Why?"),
    ]
    said = capsys.readouterr().err
    assert "duplicate questions are answered once: 1 (line 3 (question 1))" in said
    assert "questions that share an id with another and are told apart by their text: 1" in said


def test_one_id_and_text_about_two_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 2 \(question 1\): line 1 \(question 1\) has the same id and text"):
        distinct(read(tmp_path, ask(1), ask(1, image="scene.png")))


# Parts


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [5]), (2, [3, 2]), (4, [2, 2, 1, 0]), (5, [1] * 5), (8, [1] * 5 + [0] * 3)]
)
def test_parts_are_the_originals_and_a_part_too_many_is_empty(count, sizes):
    parts = [chunk(range(5), count, index) for index in range(count)]
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(5))


@pytest.mark.parametrize(("count", "index"), [(0, 0), (2, 2), (2, -1)])
def test_a_part_that_is_none_is_refused(count, index):
    with pytest.raises(InvalidRequest, match="chunks count from 0"):
        chunk([1], count, index)


def test_questions_about_one_image_are_asked_together_and_those_without_stay(tmp_path):
    images = ["a", "b", None, "a", None, "b"]
    questions = read(tmp_path, *(ask(number, image=name) for number, name in enumerate(images)))
    assert [question.record["question_id"] for question in by_image(questions)] == [0, 3, 1, 5, 2, 4]


# Images


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("000000441147.jpg", "COCO_val2014_000000441147.jpg"),
        ("COCO_val2014_000000441147.jpg", "000000441147.jpg"),
        ("COCO_train2014_000000441147.jpg", "000000441147.jpg"),
        ("val/000000441147.jpg", "val/COCO_val2014_000000441147.jpg"),
    ],
)
def test_coco_images_are_found_with_and_without_their_prefix(tmp_path, capsys, there, asked):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    found = with_files(read(tmp_path, ask(1, image=asked)), tmp_path, lambda *missing: pytest.fail(str(missing)))
    assert found[0].images == (tmp_path / there,)
    assert "under COCO's other name" in capsys.readouterr().err


def test_a_missing_image_is_told_with_its_question_and_the_others_stay(tmp_path):
    (tmp_path / "here.png").touch()
    missing = []
    questions = read(tmp_path, ask(1, image=["here.png", "gone.png"]), ask(2, image="here.png"))
    found = with_files(questions, tmp_path, lambda question, name: missing.append((question.key[0], name)))
    assert [question.key[0] for question in found] == ["2"]
    assert missing == [("1", "gone.png")]


# ScienceQA


def test_science_questions_are_those_of_the_original(data):
    with_image, *_ = questions = read_science_qa(
        data / "golden" / "science_qa" / "llava_test_QCM-LEPA.json", letter_only=False
    )
    assert len(questions) == 12
    imaged = [question for question in questions if question.images]
    assert all(question.record["prompt"] == f"{question.text}\n<image>" for question in imaged)
    assert all("<image>" not in question.text for question in questions)
    assert with_image.record["prompt"].startswith(with_image.text)


def test_the_letter_alone_is_asked_for_in_the_words_of_later_releases(data):
    file = data / "golden" / "science_qa" / "llava_test_QCM-LEPA.json"
    for question in read_science_qa(file, letter_only=True):
        ending = "\nAnswer with the option's letter from the given choices directly."
        assert question.text.endswith(ending)
        assert question.record["prompt"].endswith(ending)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "holds an empty list"),
        ({"a": 1}, "holds a JSON object"),
        ([1], "record 1 is a JSON number"),
        ([{"id": "1", "conversations": []}], r"record 1 \(question 1\): 'conversations' is not a list of turns"),
        ([{"id": "1", "conversations": [{"from": "human"}]}], r"\(question 1\), first turn: 'value' is missing"),
    ],
)
def test_a_science_file_that_is_wrong_is_told_with_its_record(tmp_path, content, said):
    (tmp_path / "q.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        read_science_qa(tmp_path / "q.json", letter_only=False)


# MMBench

HEADER = "index\tquestion\thint\tA\tB\tC\tD\timage\n"
IMAGE = "iVBOR" * 20


def mmbench(folder: Path, *rows: str, all_rounds: bool = False):
    (folder / "m.tsv").write_text(HEADER + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return read_mmbench(folder / "m.tsv", all_rounds=all_rounds, ending="\nLetter.")


def test_options_move_on_by_one_each_round(tmp_path):
    rounds = mmbench(tmp_path, f"7\tWhich?\tLook.\tred\tgreen\tblue\t\t{IMAGE}", all_rounds=True)
    assert [question.text for question in rounds] == [
        "Look.\nWhich?\nA. red\nB. green\nC. blue\nLetter.",
        "Look.\nWhich?\nA. green\nB. blue\nC. red\nLetter.",
        "Look.\nWhich?\nA. blue\nB. red\nC. green\nLetter.",
    ]
    assert [question.record["option_char"] for question in rounds] == [
        ["A", "B", "C"],
        ["B", "C", "A"],
        ["C", "A", "B"],
    ]
    assert [question.key[:2] for question in rounds] == [("7", 0), ("7", 1), ("7", 2)]
    assert rounds[0].record["prompt"] == "Look.\nWhich?\nA. red\nB. green\nC. blue"


def test_an_image_may_be_that_of_another_row_and_a_field_may_hold_lines(tmp_path):
    first, second = mmbench(
        tmp_path, f"1\tWhich?\tnan\tx\ty\t\t\t{IMAGE}", '1000001\t"Which\nof them\u2028?"\t\tx\ty\t\t\t1'
    )
    assert first.images == second.images == (f"data:image/jpeg;base64,{IMAGE}",)
    assert second.text == "Which\nof them\u2028?\nA. x\nB. y\nLetter."


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no questions"),
        (["1\tWhich?\t\tx"], "has \\d fields, but the header has 8"),
        ([f"1\tWhich?\t\t\t\t\t\t{IMAGE}"], r"row 1 \(question 1\) has no options"),
        (["1\tWhich?\t\tx\ty\t\t\t9"], r"row 1 \(question 1\): 'image' is neither"),
    ],
)
def test_an_mmbench_file_that_is_wrong_is_told_with_its_row(tmp_path, rows, said):
    with pytest.raises(DataError, match=said):
        mmbench(tmp_path, *rows)


def test_another_table_is_no_mmbench_file(tmp_path):
    (tmp_path / "m.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(DataError, match="has no column 'index'"):
        read_mmbench(tmp_path / "m.tsv", all_rounds=False, ending="")
