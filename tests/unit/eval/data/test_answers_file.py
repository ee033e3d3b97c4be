"""The file that answers are written into: nothing that was finished is lost, nothing of another run is mixed in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.errors import DataError, InvalidRequest
from llava.eval.data.answers_file import AnswersFile
from llava.eval.data.model_fingerprint import fingerprint
from llava.eval.data.questions import Question

SETTINGS = {"model_id": "m", "metadata": {"checkpoint": "c", "temperature": 0}}


def question(identity: int, prompt: str = "What?") -> Question:
    return Question(f"q.jsonl: line {identity}", {"question_id": identity, "prompt": prompt}, prompt)


QUESTIONS = [question(identity) for identity in (3, 1, 2)]


def answer_to(identity: int, text: str = "That.") -> dict[str, object]:
    return {"question_id": identity, "prompt": "What?", "text": text}


def write(path: Path, *ids: int, settings: dict = SETTINGS) -> None:
    with AnswersFile(path, settings) as file:
        for identity in ids:
            file.append(answer_to(identity))


def ids_in(path: Path) -> list[int]:
    return [json.loads(line)["question_id"] for line in path.read_text().splitlines()]


def test_answers_are_there_as_soon_as_they_are_given_and_at_the_end_in_order(tmp_path):
    path = tmp_path / "new" / "folder" / "a.jsonl"
    with AnswersFile(path, SETTINGS) as file:
        assert file.answered(QUESTIONS) == set()
        file.append(answer_to(2))
        file.append(answer_to(3))
        assert ids_in(path) == [2, 3]
        file.finish(QUESTIONS)
    assert ids_in(path) == [3, 2]
    with AnswersFile(path, SETTINGS) as file:
        assert file.answered(QUESTIONS) == {QUESTIONS[0].key, QUESTIONS[2].key}


def test_a_file_name_without_a_folder_is_a_file_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a.jsonl"), 1)
    assert ids_in(tmp_path / "a.jsonl") == [1]


@pytest.mark.parametrize(
    ("left", "num_answered", "noted"),
    [(b'{"question_id": 2, "pro', 1, True), (b"\0\0\0\0", 1, True), (b"whole", 2, False), (b"", 1, False)],
)
def test_what_an_interrupted_write_left_is_removed_and_a_whole_answer_kept(tmp_path, capsys, left, num_answered, noted):
    path = tmp_path / "a.jsonl"
    write(path, 1)
    whole = json.dumps({**answer_to(2), **SETTINGS}).encode()
    with path.open("ab") as file:
        file.write(whole if left == b"whole" else left)
    with AnswersFile(path, SETTINGS) as file:
        assert len(file.answered(QUESTIONS)) == num_answered
        file.append(answer_to(3))
    assert ids_in(path)[-1] == 3
    assert ("the last record was cut off" in capsys.readouterr().err) == noted


def other(**metadata: object) -> dict:
    return {"model_id": "m", "metadata": {**SETTINGS["metadata"], **metadata}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (other(temperature=0.7), "was answered with temperature 0, but this run has temperature 0.7"),
        (other(checkpoint="d"), 'with checkpoint "c", but this run has checkpoint "d"'),
        (other(answer_prompter=True), "with no answer_prompter, but this run has answer_prompter true"),
        ({**SETTINGS, "model_id": "n"}, "has the model_id 'm', but this run has 'n'"),
    ],
)
def test_answers_of_other_settings_are_not_gone_on_with(tmp_path, settings, said):
    path = tmp_path / "a.jsonl"
    write(path, 1)
    before = path.read_bytes()
    with AnswersFile(path, settings) as file, pytest.raises(DataError, match=r"line 1 \(question 1\)") as caught:
        file.answered(QUESTIONS)
    assert said in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert path.read_bytes() == before


def test_answers_of_a_program_that_tells_no_settings_are_not_gone_on_with(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, 1, settings={"model_id": "m", "metadata": {}})
    with AnswersFile(path, SETTINGS) as file, pytest.raises(DataError, match="does not record its settings"):
        file.answered(QUESTIONS)


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([question(2)], "answers a question that this run does not ask"),
        ([question(1, "Why?")], "whose text has changed"),
    ],
)
def test_answers_to_other_questions_are_not_gone_on_with(tmp_path, questions, said):
    write(tmp_path / "a.jsonl", 1)
    with AnswersFile(tmp_path / "a.jsonl", SETTINGS) as file, pytest.raises(DataError, match=said):
        file.answered(questions)


def test_overwrite_begins_anew_whatever_is_there(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("a diary\n")
    with pytest.raises(DataError, match="line 1: not JSON"), AnswersFile(path, SETTINGS) as file:
        file.answered(QUESTIONS)
    assert path.read_text() == "a diary\n"
    with AnswersFile(path, SETTINGS, overwrite=True) as file:
        assert file.answered(QUESTIONS) == set()
    with pytest.raises(InvalidRequest, match="single process"):
        AnswersFile(path, SETTINGS, overwrite=True, shared=True)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(InvalidRequest, match="is a folder"):
        AnswersFile(tmp_path, SETTINGS)


def test_two_runs_never_write_into_one_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswersFile(path, SETTINGS), pytest.raises(DataError, match="another run is writing"):
        AnswersFile(path, SETTINGS)
    with AnswersFile(path, SETTINGS, shared=True), pytest.raises(DataError, match="another run is writing"):
        AnswersFile(path, SETTINGS)


def test_of_several_processes_the_last_one_puts_the_file_in_order(tmp_path):
    path = tmp_path / "a.jsonl"
    with AnswersFile(path, SETTINGS, shared=True) as one, AnswersFile(path, SETTINGS, shared=True) as other:
        one.append(answer_to(1))
        other.append(answer_to(3))
        one.finish(QUESTIONS)
        assert ids_in(path) == [1, 3], "the other one still writes"
        other.append(answer_to(2))
        other.finish(QUESTIONS)
    assert ids_in(path) == [3, 1, 2]


# Which model it was


def test_a_fingerprint_changes_with_settings_and_with_weights_anywhere_in_a_large_file(tmp_path):
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("one")
    content = bytearray(3_000_000)
    weights.write_bytes(content)
    first = fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("two")
    assert fingerprint(tmp_path) == first, "not part of the model"
    weights.write_bytes(bytes(byte ^ 1 for byte in content))
    trained = fingerprint(tmp_path)
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert len({first, trained, fingerprint(tmp_path), fingerprint(tmp_path, "owner/base")}) == 4
    assert fingerprint(tmp_path, "owner/base") == fingerprint(tmp_path, "owner/base")
