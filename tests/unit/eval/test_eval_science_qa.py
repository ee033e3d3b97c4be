"""Marking ScienceQA: the rule of the published figures, their columns, and what becomes of odd answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava.command_line import run
from llava.eval import eval_science_qa, eval_science_qa_gpt4, eval_science_qa_gpt4_requery
from llava.eval.science_qa.columns import ScienceQaColumn
from llava.eval.science_qa.marks import parse_letter
from tests.support.science_qa import answer, make_science_qa, right, write_lines

RIGHT = [answer(number, right(number)) for number in range(1, 13)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_science_qa(tmp_path / "scienceqa")


def evaluate(base: Path, answers: Path, *more: object) -> int:
    words = ["--base-dir", base, "--result-file", answers, *more]
    return run(eval_science_qa.add_arguments, eval_science_qa.main, argv=[str(word) for word in words])


def outputs(folder: Path) -> tuple[Path, Path]:
    return folder / "vqa" / "output.json", folder / "vqa" / "result.json"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B. because", "B"),
        ("The answer is B.", "B"),
        ("The answer is B, I think", "B"),
        ("Assistant: LECTURE: one\ntwo\nSOLUTION: three\n The answer is D.", "D"),
        ("A. The answer is B.", "A"),
        ("I say A. The answer is B.", "B"),
        ("The answer is Z.", "Z"),
        ("The answer is A. No. The answer is B.", None),
        ("The answer is A. I repeat. The answer is A.", None),
        ("The answer is A", None),
        ("The answer is a.", None),
        ("the answer is A.", None),
        ("Answer: A", None),
        ("F", None),
        ("F. because", None),
        ("A.", None),
        ("A because", None),
        ("A.because", None),
        (" A", None),
        ("", None),
        ("FAILED", None),
    ],
)
def test_a_text_names_a_letter_by_the_rule_of_the_published_figures(text, letter):
    assert parse_letter(text, list("ABCDE")) == letter


def test_figures_agree_with_the_originals_wherever_it_did_not_draw_a_random_choice(tmp_path, data):
    golden = data / "golden" / "science_qa"
    output, result = outputs(tmp_path)
    files = ("--output-file", output, "--output-result", result)
    assert evaluate(golden, golden / "sqa_pred.jsonl", *files) == 0

    expected, ours = (json.loads(file.read_text()) for file in (golden / "sqa_result.json", result))
    drawn = ("9", "10", "11", "12")
    assert list(ours) == list(expected)
    assert ours["outputs"] == expected["outputs"]
    assert {**ours["results"], **dict.fromkeys(drawn, -1)} == {**expected["results"], **dict.fromkeys(drawn, -1)}
    assert [ours["results"][identity] for identity in drawn] == [-1] * 4
    assert (ours["acc"], ours["correct"], ours["count"]) == (8 / 12 * 100, 8, 12)

    expected, ours = (json.loads(file.read_text()) for file in (golden / "sqa_output.json", output))
    chosen = [one for one in expected["correct"] if one["question_id"] not in drawn]
    assert ours["correct"] == chosen
    assert [list(one) for one in ours["incorrect"]] == [list(chosen[0])] * 4
    assert ours["unparsable"] == list(drawn)


def test_the_published_accuracy_comes_out_to_the_last_digit(tmp_path):
    """3,855 of 4,241 right is what the original's file of its 13B model says: 90.8983730252299."""
    changes = {number: {"image": None} for number in range(1, 4242)}
    base = make_science_qa(tmp_path / "scienceqa", 4241, changes=changes)
    texts = [right(number) if number <= 3855 else "The answer is E." for number in range(1, 4242)]
    published = {"acc": 90.0, "outputs": {str(number): text for number, text in enumerate(texts, start=1)}}
    (tmp_path / "published.json").write_text(json.dumps(published))
    _, result = outputs(tmp_path)
    assert evaluate(base, tmp_path / "published.json", "--output-result", result) == 0
    said = json.loads(result.read_text())
    assert (repr(said["acc"]), said["correct"], said["count"]) == ("90.8983730252299", 3855, 4241)


def test_every_column_counts_the_problems_that_its_name_says(tmp_path, base, capsys):
    """Of twelve problems 1, 2 and 4 are answered wrong; who belongs where is read off `tests.support.science_qa`."""
    answers = [answer(number, right(number + (number in (1, 2, 4)))) for number in range(1, 13)]
    output, _ = outputs(tmp_path)
    assert evaluate(base, write_lines(tmp_path / "a.jsonl", answers), "--output-file", output) == 0
    columns = json.loads(output.read_text())["columns"]
    assert {name: (column["correct"], column["questions"]) for name, column in columns.items()} == {
        "NAT": (4, 4),
        "SOC": (2, 4),
        "LAN": (3, 4),
        "TXT": (4, 4),
        "IMG": (4, 6),
        "NO": (3, 4),
        "G1-6": (3, 6),
        "G7-12": (6, 6),
        "Avg": (9, 12),
    }
    assert columns["Avg"]["accuracy"] == 75
    assert columns["Avg"]["standard_error"] == pytest.approx(12.5)  # sqrt(0.75 * 0.25 / 12)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Total: 12, Correct: 9, Accuracy: 75.00%, IMG-Accuracy: 66.67%"
    assert out[2].split() == list(columns)
    assert " ".join(out[3].split()) == "accuracy % 100.00 50.00 75.00 100.00 66.67 75.00 50.00 100.00 75.00"
    assert " ".join(out[4].split()) == "std. error 0.00 25.00 21.65 0.00 19.25 21.65 20.41 0.00 12.50"


def test_a_column_without_questions_has_no_figure():
    assert (ScienceQaColumn("SOC", 0, 0).accuracy, ScienceQaColumn("SOC", 0, 0).standard_error) == (None, None)


def test_a_split_without_images_is_marked(tmp_path, capsys):
    base = make_science_qa(tmp_path, changes={number: {"image": None} for number in range(1, 13)})
    assert evaluate(base, write_lines(tmp_path / "a.jsonl", RIGHT)) == 0
    assert capsys.readouterr().out.startswith("Total: 12, Correct: 12, Accuracy: 100.00%, IMG-Accuracy: n/a\n")


def test_odd_answers_are_counted_and_named_and_never_guessed(tmp_path, base, capsys):
    answers = [
        *RIGHT[:6],
        answer("6", "The answer is B."),  # the second answer to 6, and wrong
        answer("7", "no idea"),
        answer("8", ""),
        answer("9", "The answer is E."),  # three choices
        *RIGHT[9:11],
        answer("99", "The answer is A."),
    ]
    output, result = outputs(tmp_path)
    files = ("--output-file", output, "--output-result", result)
    assert evaluate(base, write_lines(tmp_path / "a.jsonl", answers), *files) == 0
    said = json.loads(output.read_text())
    odd = {name: said[name] for name in ("missing", "duplicate", "unknown", "unparsable", "not_a_choice")}
    assert odd == {
        "missing": ["12"],
        "duplicate": ["6"],
        "unknown": ["99"],
        "unparsable": ["7", "8"],
        "not_a_choice": ["9"],
    }
    assert [one["question_id"] for one in said["incorrect"]] == ["6", "7", "8", "9", "12"]
    assert said["incorrect"][-1]["pred"] == said["incorrect"][-1]["parsed_ans"] == "FAILED"
    results = json.loads(result.read_text())
    assert [results["results"][identity] for identity in ("6", "7", "8", "9", "12")] == [1, -1, -1, -1, -1]
    assert "99" not in results["results"]
    out, err = capsys.readouterr()
    assert out.startswith("Total: 12, Correct: 7, Accuracy: 58.33%")
    assert [line.split(": ", 2)[2] for line in err.splitlines()] == [
        "problems without an answer: 1 (counted as wrong): 12",
        "problems answered more than once: 1 (the last answer counts): 6",
        "answers to no problem of this split: 1 (left out): 99",
        "answers that name no letter: 2 (counted as wrong): 7, 8",
        "answers that name a letter without a choice: 1 (counted as wrong): 9",
    ]


def test_what_was_written_can_be_marked_again(tmp_path, base, capsys):
    _, result = outputs(tmp_path)
    answers = write_lines(tmp_path / "a.jsonl", [*RIGHT[:7], *[answer(number, "D") for number in range(8, 13)]])
    assert evaluate(base, answers, "--output-result", result) == 0
    first, line = result.read_text(), capsys.readouterr().out
    compact = tmp_path / "compact.json"
    compact.write_text(json.dumps(json.loads(first)))
    for again in (result, compact):
        assert evaluate(base, again, "--output-result", result) == 0
        assert (result.read_text(), capsys.readouterr().out) == (first, line)


@pytest.mark.parametrize(
    ("lines", "more", "said"),
    [
        (RIGHT, ["--split", "tset"], "has no split 'tset'"),
        (
            RIGHT[6:],
            ["--split", "minitest"],
            "none of its 6 answers is about a problem of this split. They belong to test",
        ),
        ([answer("a", "A")], [], "none of its 1 answers is about a problem of this split. Do they belong to this data"),
        ([], [], "holds no records"),
        ([*RIGHT, {"question_id": 5}], [], "line 13 (question 5): 'text' is missing"),
        ([{"id": 5}], [], "line 1 has no 'question_id'"),
        (RIGHT, ["--options", "ABB"], "--options ABB: give different capital letters"),
        (RIGHT, ["--options", "AB"], "problem 1: has 3 choices, but only 2 letters"),
    ],
)
def test_a_file_or_a_split_that_is_wrong_is_one_line_on_stderr(tmp_path, base, capsys, lines, more, said):
    output, _ = outputs(tmp_path)
    answers = write_lines(tmp_path / "a.jsonl", lines)
    assert evaluate(base, answers, "--output-file", output, *more) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not output.exists()


def test_a_result_file_without_answers_says_so(tmp_path, base, capsys):
    for content, said in (
        ({"acc": 1, "outputs": {}}, "its 'outputs' are empty"),
        ({"acc": 1, "outputs": {"1": None}}, "output of 1 is a JSON null, expected a string"),
    ):
        (tmp_path / "r.json").write_text(json.dumps(content, indent=2))
        assert evaluate(base, tmp_path / "r.json") == 1
        assert said in capsys.readouterr().err
    (tmp_path / "r.json").write_text(json.dumps({"acc": 1}, indent=2))
    assert evaluate(base, tmp_path / "r.json") == 1
    assert "neither JSON Lines nor a result file" in capsys.readouterr().err


# Answers to five problems, for the two ensembles.
OURS = {1: "B", 2: "B", 3: "A", 4: "no", 5: "C"}  # right are B, C, A, B, C
GPT4 = {1: "I cannot say", 2: "C", 3: "B", 4: "B", 5: "E"}
JUDGE = {1: "A", 2: "C", 3: "I cannot say", 4: "C"}


@pytest.fixture
def ensemble(tmp_path: Path) -> list[object]:
    base = make_science_qa(tmp_path / "five", 5)
    gpt4 = tmp_path / "gpt4.json"
    gpt4.write_text(json.dumps({"outputs": {str(number): text for number, text in GPT4.items()}}))
    ours = write_lines(tmp_path / "ours.jsonl", [answer(number, text) for number, text in OURS.items()])
    return ["--base-dir", base, "--gpt4-result", gpt4, "--our-result", ours]


def test_gpt4_is_complemented_by_the_model_where_it_names_no_letter(ensemble, capsys):
    words = [str(word) for word in ensemble]
    assert run(eval_science_qa_gpt4.add_arguments, eval_science_qa_gpt4.main, argv=words) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "Total: 5, Correct: 3, Accuracy: 60.00%",
        "Total: 5, Correct (upper): 5, Accuracy: 100.00%",
        "Total: 5, GPT-4 NO-ANS: 1, Percentage: 20.00%",
    ]
    assert "ours.jsonl: answers that name no letter: 1 (counted as wrong): 4" in err
    assert "gpt4.json: answers that name no letter: 1 (the model's answer counts): 1" in err
    assert "gpt4.json: answers that name a letter without a choice: 1 (counted as wrong): 5" in err


def test_gpt4_as_judge_gives_way_to_the_model_where_it_names_no_letter(ensemble, tmp_path, capsys):
    judge = write_lines(tmp_path / "judge.jsonl", [answer(number, text) for number, text in JUDGE.items()])
    result = tmp_path / "vqa" / "requery.json"
    words = [*ensemble, "--requery-result", judge, "--output-result", result]
    command = eval_science_qa_gpt4_requery
    assert run(command.add_arguments, command.main, argv=[str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:6] == [
        "Total: 5, Our-Correct: 3, Accuracy: 60.00%",
        "Total: 5, GPT-4-Correct: 2, Accuracy: 40.00%",
        "Total: 5, GPT-4 NO-ANS: 1, Percentage: 20.00%",
        "Total: 5, GPT-4-OursVisual-Correct: 3, Accuracy: 60.00%",
        "Total: 5, Requery-Correct: 3, Accuracy: 60.00%",
        "Total: 5, Correct upper: 5, Accuracy: 100.00%",
    ]
    assert "judge.jsonl: problems without an answer: 1 (the model's answer counts): 5" in err
    assert json.loads(result.read_text()) == {
        "acc": 60.0,
        "correct": 3,
        "count": 5,
        "results": {"1": 0, "2": 2, "3": 0, "4": 2, "5": 2},
        "outputs": {},
    }
