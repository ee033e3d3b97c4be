"""The answers of several processes become one file only when every question is answered exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.command_line import run
from llava.eval import merge_answers
from tests.support.science_qa import answer, write_lines


def merge(folder: Path, questions: list[object], *chunks: list[object]) -> int:
    asked = write_lines(folder / "questions.jsonl", [{"question_id": identity} for identity in questions])
    files = [
        write_lines(folder / f"chunk{number}.jsonl", [answer(identity, f"text of {identity}") for identity in chunk])
        for number, chunk in enumerate(chunks)
    ]
    words = ["--question-file", asked, "--answers-file", folder / "merged.jsonl", *files]
    return run(merge_answers.add_arguments, merge_answers.main, argv=[str(word) for word in words])


def test_answers_stand_in_the_order_of_the_questions_whoever_answered_them(tmp_path, capsys):
    assert merge(tmp_path, [3, "1", 2], ["2"], [], [1, 3]) == 0
    merged = [json.loads(line) for line in (tmp_path / "merged.jsonl").read_text().splitlines()]
    assert merged == [answer(3, "text of 3"), answer(1, "text of 1"), answer("2", "text of 2")]
    assert "merged.jsonl: 3 answers from 3 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("questions", "chunks", "said"),
    [
        ([1, 2, 3], [[1], []], "questions.jsonl: questions without an answer: 2 of 3 (2, 3). Let all"),
        ([1, 2], [[1, 1], [2]], "chunk0.jsonl: answers 1 more than once"),
        ([1, 2], [[1, 2], ["2"]], "chunk1.jsonl: questions answered in {folder}/chunk0.jsonl too: 1 (2). Files of"),
        ([1, 2], [[1], [2, 7]], "chunk1.jsonl: answers to no question of {folder}/questions.jsonl: 1 (7). Give"),
        ([1, 2, 1], [[1, 2]], "questions.jsonl: asks 1 more than once"),
    ],
)
def test_answers_that_are_missing_repeated_or_foreign_are_named_and_nothing_is_written(
    tmp_path, capsys, questions, chunks, said
):
    assert merge(tmp_path, questions, *chunks) == 1
    assert said.format(folder=tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "merged.jsonl").exists()
