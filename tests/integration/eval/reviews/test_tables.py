"""A hosted model's answers to text-only questions, and the data of the original's web page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.command_line import run
from llava.eval import eval_gpt_review, generate_webpage_data_from_table, qa_baseline_gpt35
from tests.conftest import REPOSITORY
from tests.support.fake_judge import FakeJudge, at_once, error, judging
from tests.support.reviews import read_lines
from tests.support.science_qa import write_lines

QUESTIONS = REPOSITORY / "llava" / "eval" / "table" / "questions_example.jsonl"


@pytest.fixture
def service(monkeypatch):
    service = FakeJudge(answer=lambda body, number: f"An answer to: {body['messages'][1]['content']}")
    with judging(service) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield service


@pytest.fixture
def command(capsys):
    def run_it(module, *arguments: str | Path) -> tuple[int, str, str]:
        code = run(module.add_arguments, module.main, argv=[str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run_it


@pytest.fixture
def answer(command, tmp_path):
    """Runs qa_baseline_gpt35; gives exit code, output, error and the answers."""

    def run_it(*arguments: str, name: str = "answers.jsonl") -> tuple[int, str, str, list[dict]]:
        output = tmp_path / "made" / name
        words = ("--model", "chat-1", "-q", QUESTIONS, "-o", output, *arguments)
        return *command(qa_baseline_gpt35, *words), read_lines(output) if output.exists() else []

    return run_it


def test_every_question_is_answered_in_its_order_and_the_answers_can_be_reviewed(service, answer, command, tmp_path):
    code, out, _, answers = answer("--concurrency", "4")
    assert code == 0
    assert "10 answers by chat-1" in out
    questions = read_lines(QUESTIONS)
    assert [(a["question_id"], a["text"]) for a in answers] == [
        (q["question_id"], f"An answer to: {q['text']}") for q in questions
    ]
    assert {(a["model_id"], len(a["answer_id"])) for a in answers} == {("chat-1", 32)}
    assert "response_format" not in service.bodies[0]

    file = tmp_path / "made" / "answers.jsonl"
    service.answer = lambda body, number: "8 7\nwell"
    words = ("-q", QUESTIONS, "-a", file, file, "-o", tmp_path / "r.json", "--judge-model", "j")
    assert command(eval_gpt_review, *words)[0] == 0
    assert [record["category"] for record in read_lines(tmp_path / "r.json")] == [q["category"] for q in questions]


def test_answering_goes_on_where_it_stopped(service, answer):
    service.answer = lambda body, number: "Yes." if number < 5 else error(401, "Key expired.")
    code, _, err, answers = answer()
    assert (code, len(answers)) == (1, 4)
    assert "HTTP 401: Key expired." in err
    assert "4 of 10 are finished" in err
    service.answer = lambda body, number: at_once(500) if number == 6 else "Yes."
    code, _, _, answers = answer()
    assert (code, len(answers)) == (0, 10)
    assert len(service.bodies) == 5 + 7
    assert answer()[0] == 0
    assert len(service.bodies) == 12, "nothing was asked again"


def test_answers_of_another_model_are_not_mixed_with_these(service, answer, command, tmp_path):
    assert answer()[0] == 0
    code, _, err, _ = answer("--model", "chat-2")
    assert code == 1
    assert "line 1 (question 1): the answer is to another question or by another model. Give another --output." in err


def test_a_model_that_answers_nothing_is_asked_again_and_then_recorded_as_such(service, answer):
    service.answer = lambda body, number: "" if number <= 3 else "Yes."
    code, _, _, answers = answer()
    assert code == 0
    assert (answers[0]["text"], answers[0]["metadata"]["unusable"]) == ("", "the answer is empty")
    assert len(service.bodies) == 12


def test_a_dry_run_asks_nothing(service, answer):
    code, out, _, answers = answer("--dry-run")
    assert (code, answers) == (0, [])
    assert "calls:   10 to make" in out
    assert service.bodies == []


# The web page's data


@pytest.fixture
def tables(tmp_path: Path, monkeypatch) -> Path:
    """The original's 80 questions, answers and reviews, made up, under the original's names."""
    for folder in ("answer", "results", "review"):
        (tmp_path / "table" / folder).mkdir(parents=True)
    ids = range(1, 81)
    write_lines(
        tmp_path / "table/question.jsonl", [{"question_id": n, "text": f"Q{n}", "category": f"c{n // 10}"} for n in ids]
    )
    for name in ("answer/answer_vicuna-13b", "results/llama-13b-hf-alpaca"):
        write_lines(
            tmp_path / f"table/{name}.jsonl", [{"question_id": n, "text": f"{name} {n}"} for n in reversed(ids)]
        )
    review = [
        {"question_id": n, "content": "8, 7\nAssistant 1 is better than Assistant 2.", "tuple": [8.0, 7.0]} for n in ids
    ]
    write_lines(tmp_path / "table/review/review_vicuna-13b_llama-13b-hf-alpaca.jsonl", review)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_originals_tables_become_the_originals_data(tables, command):
    code, out, _ = command(generate_webpage_data_from_table)
    assert code == 0
    assert out == "webpage/data.json: 80 questions, 2 models\n"
    data = json.loads((tables / "webpage/data.json").read_text())
    assert data["models"] == ["vicuna", "ours"]
    assert [question["id"] for question in data["questions"]] == list(range(1, 81))
    by_text = {question["question"]: question for question in data["questions"]}
    # The original's own steps: the first twenty go to the end, then places 51 to 60 to the front, then 7 to 1.
    assert [by_text[text]["id"] for text in ("Q1", "Q20", "Q21", "Q70", "Q71", "Q77", "Q78", "Q80")] == [
        *(61, 80, 11, 60),
        *(2, 1, 8, 10),
    ]
    assert by_text["Q21"] == {
        "id": 11,
        "category": "c2",
        "question": "Q21",
        "answers": {"vicuna": "answer/answer_vicuna-13b 21", "ours": "results/llama-13b-hf-alpaca 21"},
        "evaluations": {"vicuna": "**Assistant 1** is better than **Assistant 2**."},
        "scores": {"vicuna": [8.0, 7.0]},
    }


def test_files_of_ones_own_keep_their_order(tables, command):
    for name, lines in {
        "q": [{"question_id": f"x{n}", "text": "Q", "category": "c"} for n in (3, 1, 2)],
        "a": [{"question_id": f"x{n}", "text": f"A{n}"} for n in (1, 2, 3)],
        "r": [{"question_id": f"x{n}", "text": "Fine.", "score": [1, 2]} for n in (1, 2, 3)],
    }.items():
        write_lines(tables / f"{name}.jsonl", lines)
    words = ("--questions", "q.jsonl", "--answers", "one=a.jsonl", "two=a.jsonl", "--reviews", "one=r.jsonl")
    assert command(generate_webpage_data_from_table, *words, "--output", "new/data.json")[0] == 0
    data = json.loads((tables / "new/data.json").read_text())
    assert [question["id"] for question in data["questions"]] == ["x3", "x1", "x2"]
    assert data["questions"][0]["evaluations"] == {"one": "Fine."}


def test_a_question_without_an_answer_or_a_missing_table_is_named(tables, command):
    write_lines(tables / "a.jsonl", [{"question_id": n, "text": "A"} for n in range(2, 81)])
    code, _, err = command(generate_webpage_data_from_table, "--answers", "vicuna=a.jsonl")
    assert code == 1
    assert "a.jsonl: lacks 1 of the questions (1)" in err
    (tables / "table/review/review_vicuna-13b_llama-13b-hf-alpaca.jsonl").unlink()
    code, _, err = command(generate_webpage_data_from_table)
    assert code == 1
    assert "review_vicuna-13b_llama-13b-hf-alpaca.jsonl: no such file" in err
