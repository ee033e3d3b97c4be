"""The answers of several processes become one file only when every question is answered exactly once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava.command_line import run
from llava.eval import merge_answers
from tests.support.science_qa import answer, write_lines


def merge(folder: Path, questions: list[object], *chunks: list[object]) -> int:
    """Questions and answers are records; an id stands for a question of its own, and for an answer to it."""
    asked = [one if isinstance(one, dict) else ask(one, f"What is {one}?", "cat.jpg") for one in questions]
    file = write_lines(folder / "questions.jsonl", asked)
    chunk_files = [
        write_lines(
            folder / f"chunk{number}.jsonl",
            [one if isinstance(one, dict) else answer(one, f"text of {one}") for one in chunk],
        )
        for number, chunk in enumerate(chunks)
    ]
    words = ["--question-file", file, "--answers-file", folder / "merged.jsonl", *chunk_files]
    return run(merge_answers.add_arguments, merge_answers.main, argv=[str(word) for word in words])


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "merged.jsonl").read_text().splitlines()]


def ask(identity: object, text: str, image: str) -> dict[str, Any]:
    return {"question_id": identity, "text": text, "image": image}


def test_answers_stand_in_the_order_of_the_questions_whoever_answered_them(tmp_path, capsys):
    assert merge(tmp_path, [3, "1", 2], ["2"], [], [1, 3]) == 0
    assert written(tmp_path) == [answer(3, "text of 3"), answer(1, "text of 1"), answer("2", "text of 2")]
    assert "merged.jsonl: 3 answers from 3 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("questions", "chunks", "said"),
    [
        ([1, 2, 3], [[1], []], "questions.jsonl: questions without an answer: 2 of 3 (2, 3). Let all"),
        ([1, 2], [[1, 1], [2]], "chunk0.jsonl: answers 1 more than once"),
        ([1, 2], [[1, 2], ["2"]], "chunk1.jsonl: questions that {folder}/chunk0.jsonl answers too: 1 (2). Runs with"),
        (
            [1, 2],
            [[1], [2, 7]],
            "chunk1.jsonl: answers that match no question in {folder}/questions.jsonl: 1 (7). Pass",
        ),
    ],
)
def test_answers_that_are_missing_repeated_or_foreign_are_named_and_nothing_is_written(
    tmp_path, capsys, questions, chunks, said
):
    assert merge(tmp_path, questions, *chunks) == 1
    assert said.format(folder=tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "merged.jsonl").exists()


def test_a_file_that_is_given_twice_is_said_to_be(tmp_path, capsys):
    chunk = write_lines(tmp_path / "chunk.jsonl", [answer(1, "text")])
    words = ["--question-file", tmp_path / "q.jsonl", "--answers-file", tmp_path / "merged.jsonl", chunk, chunk]
    assert run(merge_answers.add_arguments, merge_answers.main, argv=[str(word) for word in words]) == 1
    assert "chunk.jsonl: given more than once. Name each" in capsys.readouterr().err
    assert not (tmp_path / "merged.jsonl").exists()


CAT, DOG = ("Is there a cat?\nPlease answer yes or no.", "Is there a dog?\nPlease answer yes or no.")
TWO_AN_IMAGE = [
    ask(f"existence/{name}.jpg", text, f"existence/{name}.jpg") for name in ("one", "two") for text in (CAT, DOG)
]


def said(name: str, prompt: str, text: str) -> dict[str, Any]:
    return answer(f"existence/{name}.jpg", text, prompt=prompt)


def test_questions_that_share_an_id_are_told_apart_by_their_text(tmp_path):
    answers = [said("one", CAT, "Yes"), said("one", DOG, "No"), said("two", CAT, "No"), said("two", DOG, "Yes")]
    assert merge(tmp_path, [*TWO_AN_IMAGE, 7], [answers[1], 7, answers[2]], [answers[3], answers[0]]) == 0
    assert written(tmp_path) == [*answers, answer(7, "text of 7")]


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([[said("one", CAT, "Yes"), said("two", CAT, "No"), said("two", DOG, "Yes")]], "answer: 1 of 4 ({one_dog})."),
        ([[said("one", DOG, "No")], [said("one", DOG, "No")]], "chunk0.jsonl answers too: 1 ({one_dog}). Runs with"),
        ([[said("one", "Is there a cow?", "No")]], "questions.jsonl: 1 (existence/one.jpg 'Is there a cow?'). Pass"),
        ([[{"question_id": "existence/one.jpg", "text": "No"}]], "(question existence/one.jpg): 'prompt' is missing."),
    ],
)
def test_answers_to_questions_that_share_an_id_are_named_with_the_text(tmp_path, capsys, chunks, message):
    assert merge(tmp_path, TWO_AN_IMAGE, *chunks) == 1
    assert message.format(one_dog=f"existence/one.jpg {DOG!r}") in capsys.readouterr().err
    assert not (tmp_path / "merged.jsonl").exists()


def test_a_repeated_question_has_one_answer_as_the_generators_give_it(tmp_path, capsys):
    assert merge(tmp_path, [1, 2, 1], [2], [1]) == 0
    assert written(tmp_path) == [answer(1, "text of 1"), answer(2, "text of 2")]
    assert "duplicate questions are answered once: 1 (line 3 (question 1))" in capsys.readouterr().err


def test_the_same_question_about_two_images_under_one_id_cannot_be_merged(tmp_path, capsys):
    assert merge(tmp_path, [ask(1, CAT, "one.jpg"), ask(1, CAT, "two.jpg")], [1]) == 1
    assert "line 1 (question 1) has the same id and text but another image" in capsys.readouterr().err


def test_a_list_of_problems_that_repeats_an_id_is_refused(tmp_path, capsys):
    (tmp_path / "problems.json").write_text(json.dumps([{"id": 1}, {"id": 2}, {"id": "1"}]))
    chunk = write_lines(tmp_path / "chunk.jsonl", [answer(1, "A"), answer(2, "B")])
    words = ["--question-file", tmp_path / "problems.json", "--answers-file", tmp_path / "merged.jsonl", chunk]
    assert run(merge_answers.add_arguments, merge_answers.main, argv=[str(word) for word in words]) == 1
    assert "problems.json: duplicate questions: 1. Remove the duplicates." in capsys.readouterr().err
